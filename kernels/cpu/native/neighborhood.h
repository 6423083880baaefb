// From a caller's neighbour lists to the edges that the model sees: within the cut-off, nearest ``sel``, exclusions gone.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "prepared_model.h"

namespace dpa1 {

/// Two atoms closer than this, in Å, are one that was written twice.
constexpr double OVERLAP = 1e-3;

/// Edges of all centres in the form of ``Request``; kept from call to call, so that steps allocate nothing.
struct Neighborhood {
  std::vector<int64_t> type, first_edge, neighbor, n_filled, center, first_type;
  std::vector<double> vector;
  int64_t over = 0, most = 0;

  /// Checks what the caller gave and gathers it.
  void gather(const PreparedModel& model, const dpa1_fast_atoms& a, dpa1_fast_results& out) {
    check_atoms(model, a, out);
    first_edge.assign(size_t(a.atoms) + 1, 0), n_filled.assign(size_t(a.atoms), 0);
    center.clear();
    over = most = 0;
    used_ = 0;
    // Edges of an atom lie between first_edge[i] and first_edge[i + 1], and centres may come in any order.
    order_.resize(size_t(a.centers));
    for (int64_t k = 0; k < a.centers; ++k) order_[size_t(k)] = a.center ? a.center[k] : int32_t(k);
    std::sort(order_.begin(), order_.end());
    int64_t at = 0;
    for (int32_t i : order_) {
      for (; at < i; ++at) first_edge[size_t(at) + 1] = used_;
      if (at > i) refuse(out, i, -1, "is twice among the centres");
      edges_of(model, a, i, out);
      first_edge[size_t(++at)] = used_;
    }
    for (; at < a.atoms; ++at) first_edge[size_t(at) + 1] = used_;
    first_type.assign(center.size(), model.order_dependent ? a.first_type : 0);
  }

 private:
  [[noreturn]] static void refuse(dpa1_fast_results& out, int64_t atom, int64_t other, const std::string& what,
                                  int status = DPA1_FAST_BAD_ARGUMENT) {
    out.atom = atom, out.other = other;
    throw Failure(status, "atom " + std::to_string(atom) + " " + what);
  }

  void check_atoms(const PreparedModel& model, const dpa1_fast_atoms& a, dpa1_fast_results& out) {
    if (a.atoms < 0 || a.centers < 0 || a.centers > a.atoms || a.atoms > INT32_MAX)
      throw Failure(DPA1_FAST_BAD_ARGUMENT, std::to_string(a.centers) + " centres of " + std::to_string(a.atoms) +
                                                " atoms cannot be evaluated");
    if (a.atoms && (!a.position || !a.type || (a.centers && (!a.n_neighbors || !a.neighbors))))
      throw Failure(DPA1_FAST_BAD_ARGUMENT, "position, type, n_neighbors and neighbors must be given");
    if (model.order_dependent && a.centers && !(a.first_type >= 0 && a.first_type < model.ntypes))
      throw Failure(DPA1_FAST_BAD_ARGUMENT, "this model needs first_type, the type of the system's first atom");
    type.resize(size_t(a.atoms));
    for (int64_t i = 0; i < a.atoms; ++i) {
      const int32_t t = a.type[i];
      if (t < -1 || t >= model.ntypes) refuse(out, i, -1, "has type " + std::to_string(t) + ", and types are −1 to " + std::to_string(model.ntypes - 1));
      if (t >= 0 && !model.compiled[size_t(t)])
        refuse(out, i, -1, "is of type " + model.names[size_t(t)] + ", for which the model file was not compiled");
      type[size_t(i)] = t;
      const double* r = a.position + 3 * i;
      if (!std::isfinite(r[0]) || !std::isfinite(r[1]) || !std::isfinite(r[2]))
        refuse(out, i, -1, "has a position that is not finite", DPA1_FAST_NOT_FINITE);
    }
    for (int64_t k = 0; a.center && k < a.centers; ++k)
      if (a.center[k] < 0 || a.center[k] >= a.atoms) refuse(out, a.center[k], -1, "is among the centres and does not exist");
  }

  void edges_of(const PreparedModel& model, const dpa1_fast_atoms& a, int32_t i, dpa1_fast_results& out) {
    const int64_t own = type[size_t(i)];
    if (own < 0 || model.active[size_t(own)] == 0) return;
    const int64_t count = a.n_neighbors[i];
    if (count < 0 || (count && !a.neighbors[i])) refuse(out, i, -1, "has a row of neighbours that does not exist");
    const size_t room = size_t(used_ + count);
    if (neighbor.size() < room) neighbor.resize(room + room / 2), vector.resize(3 * neighbor.size());
    const double cut = model.cutoff * model.cutoff, *r = a.position + 3 * size_t(i);
    const int32_t mask = a.neighbor_mask ? a.neighbor_mask : -1;
    double least = INFINITY;
    int64_t e = used_, nearest = -1;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t j = a.neighbors[i][k] & mask;
      if (j < 0 || j >= a.atoms) refuse(out, i, j, "has neighbour " + std::to_string(j) + ", which does not exist");
      const double* s = a.position + 3 * j;
      // Written in any case, and kept where it is near: half of the branches would be guessed wrongly.
      double* d = vector.data() + 3 * e;
      for (int c = 0; c < 3; ++c) d[c] = s[c] - r[c];
      const double square = std::fma(d[2], d[2], std::fma(d[1], d[1], d[0] * d[0]));
      neighbor[size_t(e)] = j;
      const bool near = square < cut && type[size_t(j)] >= 0 && j != i;
      if (near && square < least) least = square, nearest = j;
      e += near;
    }
    if (least < OVERLAP * OVERLAP) {
      out.distance = std::sqrt(least);
      char said[64];
      std::snprintf(said, sizeof said, "overlaps atom %lld: they are %.3g Å apart", (long long)nearest, out.distance);
      refuse(out, i, nearest, said, DPA1_FAST_OVERLAP);
    }
    if (e - used_ > model.nsel) e = keep_nearest(model.nsel, e);
    const double *fills = model.fills.data() + own * model.ntypes, *acts = model.interacts.data() + own * model.ntypes;
    int64_t kept = used_, filled = 0;
    for (int64_t k = used_; k < e; ++k) {
      const int64_t t = type[size_t(neighbor[size_t(k)])];
      if (fills[t] == 0) continue;
      ++filled;
      if (acts[t] == 0) continue;
      if (kept < k) {
        neighbor[size_t(kept)] = neighbor[size_t(k)];
        std::copy_n(vector.data() + 3 * k, 3, vector.data() + 3 * kept);
      }
      ++kept;
    }
    used_ = kept;
    n_filled[size_t(i)] = filled;
    center.push_back(i);
  }

  /// Of the edges from used_ to e, the nearest n, in the order that they had; where they end.
  int64_t keep_nearest(int n, int64_t e) {
    const size_t count = size_t(e - used_);
    ++over, most = std::max(most, int64_t(count));
    const double* d = vector.data() + 3 * used_;
    distance_.resize(count), rank_.resize(count);
    for (size_t k = 0; k < count; ++k)
      distance_[k] = std::fma(d[3 * k + 2], d[3 * k + 2], std::fma(d[3 * k + 1], d[3 * k + 1], d[3 * k] * d[3 * k]));
    std::iota(rank_.begin(), rank_.end(), 0);
    std::stable_sort(rank_.begin(), rank_.end(), [&](int a, int b) { return distance_[size_t(a)] < distance_[size_t(b)]; });
    std::sort(rank_.begin(), rank_.begin() + n);
    for (int k = 0; k < n; ++k) {
      const int64_t to = used_ + k, from = used_ + rank_[size_t(k)];
      neighbor[size_t(to)] = neighbor[size_t(from)];
      std::copy_n(vector.data() + 3 * from, 3, vector.data() + 3 * to);
    }
    return used_ + n;
  }

  int64_t used_ = 0;
  std::vector<int32_t> order_;
  std::vector<double> distance_;
  std::vector<int> rank_;
};

}  // namespace dpa1
