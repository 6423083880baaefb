// How far several models disagree, in the columns of DeePMD-kit's model_devi.out (dpa1_fast/screening/deviation.py has the
// same definitions).
#include <algorithm>
#include <cinttypes>
#include <cmath>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "pair_dpa1_fast.h"
#include "update.h"

using namespace LAMMPS_NS;

int PairDPA1Fast::pack_reverse_comm(int n, int first, double* buffer) {
  int k = 0;
  for (const Loaded& m : models_)
    for (int i = 3 * first; i < 3 * (first + n); ++i) buffer[k++] = m.forces[i];
  return k;
}

void PairDPA1Fast::unpack_reverse_comm(int n, int* atoms, double* buffer) {
  for (Loaded& m : models_)
    for (int i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) m.forces[3 * size_t(atoms[i]) + c] += *buffer++;
}

/// On rank 0, before the first step; what it returns is what went wrong. A run that does not begin at step 0 goes on with
/// the file of the one before it, whose last row a kill may have cut.
std::string PairDPA1Fast::open_file() {
  if (out_) return "";
  out_ = std::fopen(out_file_.c_str(), update->ntimestep > 0 ? "a+" : "w");
  if (!out_) return fmt::format("pair_style dpa1_fast: {} cannot be written to", out_file_);
  if (update->ntimestep > 0 && std::fseek(out_, -1, SEEK_END) == 0) {
    const bool whole = std::fgetc(out_) == '\n';
    std::fseek(out_, 0, SEEK_END);
    if (!whole) std::fputc('\n', out_);
    return "";
  }
  std::fprintf(out_, "#%11s", "step");
  for (const char* column : {"max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"})
    std::fprintf(out_, "%19s", column);
  std::fprintf(out_, atomic_ ? "%19s\n" : "\n", "atm_devi_f(N)");
  return "";
}

void PairDPA1Fast::deviate() {
  comm->reverse_comm(this);
  const int count = int(models_.size());
  const auto spread = [&](auto value) {
    double mean = 0, square = 0;
    for (const Loaded& m : models_) mean += value(m) / count;
    for (const Loaded& m : models_) square += (value(m) - mean) * (value(m) - mean) / count;
    return std::pair<double, double>(square, mean);
  };
  // In LAMMPS's units, as the number is that is added to a mean; a ratio has none.
  const auto told = [&](double d, double mean, double least) {
    if (least < 0) return scale_ * d;
    return d > 0 ? d / (mean + least / scale_) : 0.0;
  };
  // Forces: the length of each atom's standard deviation, over that of its mean where it is to be relative.
  double largest = 0, smallest = INFINITY, sum = 0, number = 0;
  std::vector<double> own;
  std::vector<int> tags;
  for (int i = 0; i < atom->nlocal; ++i) {
    if (models_[0].type_of[atom->type[i]] < 0) continue;
    double square = 0, length = 0;
    for (int c = 0; c < 3; ++c) {
      const auto [s, mean] = spread([&](const Loaded& m) { return m.forces[3 * size_t(i) + c]; });
      square += s, length += mean * mean;
    }
    const double d = told(std::sqrt(square), std::sqrt(length), relative_);
    largest = std::max(largest, d), smallest = std::min(smallest, d), sum += d, number += 1;
    if (atomic_) own.push_back(d), tags.push_back(int(atom->tag[i]));
  }
  double most, least, sums[2], mine[2] = {sum, number};
  MPI_Reduce(&largest, &most, 1, MPI_DOUBLE, MPI_MAX, 0, world);
  MPI_Reduce(&smallest, &least, 1, MPI_DOUBLE, MPI_MIN, 0, world);
  MPI_Reduce(mine, sums, 2, MPI_DOUBLE, MPI_SUM, 0, world);
  for (Loaded& m : models_) {
    double total[9];
    MPI_Allreduce(m.virial, total, 9, MPI_DOUBLE, MPI_SUM, world);
    std::copy(total, total + 9, m.virial);
  }
  std::vector<int> sizes(comm->nprocs), starts(comm->nprocs), all_tags;
  std::vector<double> all;
  if (atomic_) {
    int n = int(own.size());
    MPI_Gather(&n, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, world);
    for (int k = 1; k < comm->nprocs; ++k) starts[k] = starts[k - 1] + sizes[k - 1];
    all.resize(starts.back() + sizes.back()), all_tags.resize(all.size());
    MPI_Gatherv(own.data(), n, MPI_DOUBLE, all.data(), sizes.data(), starts.data(), MPI_DOUBLE, 0, world);
    MPI_Gatherv(tags.data(), n, MPI_INT, all_tags.data(), sizes.data(), starts.data(), MPI_INT, 0, world);
  }
  if (comm->me != 0) return;
  // Virials, by the number of atoms: over their nine components.
  double v_most = 0, v_least = INFINITY, v_sum = 0;
  const double atoms = double(atom->natoms);
  for (int k = 0; k < 9; ++k) {
    const auto [s, mean] = spread([&](const Loaded& m) { return m.virial[k] / atoms; });
    const double d = told(std::sqrt(s), std::fabs(mean), relative_v_);
    v_most = std::max(v_most, d), v_least = std::min(v_least, d), v_sum += d * d;
  }
  std::fprintf(out_, "%12" PRId64, int64_t(update->ntimestep));
  const double average = sums[1] > 0 ? sums[0] / sums[1] : 0;
  for (double x : {v_most, v_least, std::sqrt(v_sum / 9), most, least, average})
    std::fprintf(out_, " %18.6e", x);
  std::vector<size_t> order(all.size());
  for (size_t k = 0; k < order.size(); ++k) order[k] = k;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all_tags[a] < all_tags[b]; });
  for (size_t k : order) std::fprintf(out_, " %18.6e", all[k]);
  std::fprintf(out_, "\n");
  std::fflush(out_);
}
