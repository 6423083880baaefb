// What is told when a step goes wrong, and that all ranks stop for it: what one of several says before it aborts is lost
// where the launcher ends first.
#include <climits>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "fmt/format.h"
#include "pair_dpa1_fast.h"
#include "update.h"

using namespace LAMMPS_NS;
using dpa1_lammps::Core;

std::string PairDPA1Fast::name(int64_t i) const {
  if (i < 0 || i >= atom->nlocal + atom->nghost) return "?";
  return atom->tag_enable ? std::to_string(atom->tag[i]) : "(without an ID)";
}

std::string PairDPA1Fast::trouble(const Loaded& m, int status, const dpa1_fast_results& out) const {
  const std::string step = std::to_string(update->ntimestep);
  if (status == DPA1_FAST_OVERLAP)
    return fmt::format("dpa1_fast: atoms {} and {} overlap at step {}: they are {:.3g} Å apart", name(out.atom), name(out.other), step, out.distance);
  if (status == DPA1_FAST_NOT_FINITE)
    return fmt::format("dpa1_fast: atom {} has a position, an energy or a force that is not finite at step {}: is the time step too long, are atoms too close?", name(out.atom), step);
  const std::string said = Core::get().error();
  if (out.atom >= 0) return fmt::format("dpa1_fast: {} at step {} (atom ID {}): {}", m.file, step, name(out.atom), said);
  return fmt::format("dpa1_fast: {} at step {}: {}", m.file, step, said);
}

/// Every rank calls this; where one has something to say, the lowest such rank is heard and LAMMPS ends on all.
void PairDPA1Fast::stop_together(std::string said) const {
  const int mine = said.empty() ? INT_MAX : comm->me;
  int first = INT_MAX;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, world);
  if (first == INT_MAX) return;
  int length = int(said.size());
  MPI_Bcast(&length, 1, MPI_INT, first, world);
  said.resize(size_t(length));
  MPI_Bcast(said.data(), length, MPI_CHAR, first, world);
  error->all(FLERR, "{}", said);
}
