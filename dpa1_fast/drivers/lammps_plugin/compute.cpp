// One step: what LAMMPS holds goes to the engine as it is, energies, forces and virials come back.
#include <algorithm>
#include <climits>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair_dpa1_fast.h"
#include "update.h"

using namespace LAMMPS_NS;
using dpa1_lammps::Core;

void PairDPA1Fast::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  if (neighbor->ago == 0) tell_lost();
  const size_t all = size_t(atom->nlocal) + atom->nghost;
  const bool compare = models_.size() > 1 && update->ntimestep % out_freq_ == 0;
  if (eflag_atom) energies_.assign(all, 0.0);
  if (vflag_atom || cvflag_atom) virials_.assign(9 * all, 0.0);
  // Forces of LAMMPS may have contributions already, and other units.
  const bool straight = scale_ == 1 && !compare;
  if (!straight) forces_.assign(3 * all, 0.0);
  double* forces = straight && all ? atom->f[0] : forces_.data();
  dpa1_fast_results out = {};
  evaluate(models_[0], eflag_atom ? energies_.data() : nullptr, forces,
           vflag_atom || cvflag_atom ? virials_.data() : nullptr, out);
  if (!straight)
    for (size_t i = 0; i < all; ++i)
      for (int c = 0; c < 3; ++c) atom->f[i][c] += scale_ * forces_[3 * i + c];
  tally(out);
  if (!compare) return;
  models_[0].forces = forces_;
  std::memcpy(models_[0].virial, out.virial, sizeof out.virial);
  for (size_t k = 1; k < models_.size(); ++k) {
    models_[k].forces.assign(3 * all, 0.0);
    dpa1_fast_results other = {};
    evaluate(models_[k], nullptr, models_[k].forces.data(), nullptr, other);
    std::memcpy(models_[k].virial, other.virial, sizeof other.virial);
  }
  deviate();
}

void PairDPA1Fast::evaluate(Loaded& m, double* energies, double* forces, double* atomic_virials, dpa1_fast_results& out) {
  const int all = atom->nlocal + atom->nghost;
  types_.resize(all);
  for (int i = 0; i < all; ++i) types_[i] = m.type_of[atom->type[i]];
  if (m.info.atomic_parameters) {
    parameters_.clear();
    for (int i = 0; i < all; ++i) parameters_.insert(parameters_.end(), atomic_parameters_.begin(), atomic_parameters_.end());
  }
  dpa1_fast_atoms a = {};
  a.size = sizeof a, a.atoms = all, a.position = all ? atom->x[0] : nullptr, a.type = types_.data();
  a.centers = list->inum, a.center = list->ilist, a.n_neighbors = list->numneigh, a.neighbors = list->firstneigh;
  a.neighbor_mask = NEIGHMASK;
  a.first_type = m.info.needs_first_type ? first_type(m) : 0;
  a.frame_parameters = frame_.empty() ? nullptr : frame_.data();
  a.atomic_parameters = parameters_.empty() ? nullptr : parameters_.data();
  out.size = sizeof out, out.energies = energies, out.forces = forces, out.atomic_virials = atomic_virials;
  const int status = Core::get().evaluate(m.model.get(), &a, &out);
  stop_together(status ? trouble(m, status, out) : "");
  if (out.over && !told_over_) {
    told_over_ = true;
    error->warning(FLERR, "dpa1_fast: {} atoms have more than sel = {} neighbours (up to {}); the nearest {} are kept, as in DeePMD-kit (said once)",
                   out.over, m.info.most_neighbors, out.most, m.info.most_neighbors);
  }
}

/// The type of the atom with the lowest tag, wherever it is: such models depend on which atom is the first.
int PairDPA1Fast::first_type(const Loaded& m) const {
  int64_t own = INT64_MAX, first;
  for (int i = 0; i < atom->nlocal; ++i) {
    const int t = m.type_of[atom->type[i]];
    if (t < 0) continue;
    const int64_t tag = atom->tag_enable ? atom->tag[i] : 0;
    own = std::min(own, tag * m.info.types + t);
  }
  MPI_Allreduce(&own, &first, 1, MPI_INT64_T, MPI_MIN, world);
  return first == INT64_MAX ? 0 : int(first % m.info.types);
}

void PairDPA1Fast::tally(const dpa1_fast_results& out) {
  const int all = atom->nlocal + atom->nghost;
  // LAMMPS's orders: xx yy zz xy xz yz, and for centroids yx zx zy after them; ours is force by place, so that xy = r_x F_y
  // stands in row y.
  constexpr int place[9] = {0, 4, 8, 3, 6, 7, 1, 2, 5}, mirror[6] = {0, 4, 8, 1, 2, 5};
  if (eflag_global) eng_vdwl += scale_ * out.energy;
  if (vflag_global)
    for (int k = 0; k < 6; ++k) virial[k] += scale_ * 0.5 * (out.virial[place[k]] + out.virial[mirror[k]]);
  if (eflag_atom)
    for (int i = 0; i < atom->nlocal; ++i) eatom[i] += scale_ * energies_[i];
  for (int i = 0; i < all; ++i) {
    const double* w = virials_.data() + 9 * size_t(i);
    if (vflag_atom)
      for (int k = 0; k < 6; ++k) vatom[i][k] += scale_ * 0.5 * (w[place[k]] + w[mirror[k]]);
    if (cvflag_atom)
      for (int k = 0; k < 9; ++k) cvatom[i][k] += scale_ * w[place[k]];
  }
}

/// On rank 0 the IDs of the atoms of all ranks, sorted; nothing on others. IDs may be far higher than atoms are many.
std::vector<tagint> PairDPA1Fast::ids_there(bigint atoms) const {
  if (atoms > INT_MAX) return {};  // more than MPI counts in one message
  std::vector<int> sizes(comm->nprocs), starts(comm->nprocs);
  MPI_Gather(&atom->nlocal, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, world);
  for (int k = 1; k < comm->nprocs; ++k) starts[k] = starts[k - 1] + sizes[k - 1];
  std::vector<tagint> all(comm->me == 0 ? size_t(atoms) : 0);
  MPI_Gatherv(atom->tag, atom->nlocal, MPI_LMP_TAGINT, all.data(), sizes.data(), starts.data(), MPI_LMP_TAGINT, 0, world);
  std::sort(all.begin(), all.end());
  return all;
}

/// Names atoms that left the box; LAMMPS itself says only how many, and stops or goes on as thermo_modify lost has it.
/// IDs need not be without gaps: those are known that were there when nobody was missing, and looked up again where
/// atoms were added or taken away.
void PairDPA1Fast::tell_lost() {
  if (!atom->tag_enable) return;
  bigint here = atom->nlocal, there = 0;
  MPI_Allreduce(&here, &there, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  const bigint gone = atom->natoms - there;
  if (gone <= 0 && atom->natoms != known_atoms_) {
    known_ = ids_there(there);
    known_atoms_ = atom->natoms;
  }
  const bool more = gone > lost_;
  lost_ = gone;
  if (!more) return;
  const std::vector<tagint> still = ids_there(there);
  if (comm->me != 0) return;
  std::string who;
  int told = 0;
  for (const tagint id : known_)
    if (told < 10 && !std::binary_search(still.begin(), still.end(), id)) who += " " + std::to_string(id), ++told;
  error->warning(FLERR, "dpa1_fast: atoms left the box and are lost at step {}:{}", update->ntimestep, who);
}

double PairDPA1Fast::memory_usage() {
  double bytes = 0;
  for (const Loaded& m : models_) bytes += double(m.forces.capacity() * sizeof(double));
  return bytes + double((energies_.capacity() + forces_.capacity() + virials_.capacity()) * sizeof(double));
}
