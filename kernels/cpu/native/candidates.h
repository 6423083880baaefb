// Neighbour lists that last (dpa1_fast/verlet.py): the search of a small structure, and what a step takes of all lists.
//
// Products that are added stand as std::fma, so that the bits of a vector depend on nothing but its own numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace dpa1 {

/// The candidates of one structure, as verlet.py's Candidates holds them.
struct List {
  int64_t images;        // distinct (j, S)
  const int64_t* counts;  // (n) candidates of each atom
  const int64_t* image;   // (Σ counts) which (j, S)
  const int64_t* atom;    // (images) j
  const double* shift;    // (images, 3) S
};

/// S·cell, rows of the cell being lattice vectors.
inline void shifted(const double* s, const double* cell, double* out) {
  for (int c = 0; c < 3; ++c) out[c] = std::fma(s[2], cell[6 + c], std::fma(s[1], cell[3 + c], s[0] * cell[c]));
}

inline double squared(const double* d) { return std::fma(d[2], d[2], std::fma(d[1], d[1], d[0] * d[0])); }

/// The candidates of all structures that are closer than the cut-off, sorted by centre; how many there are. Arrays of
/// edges have room for all candidates and one more. ``least``: the smallest square of a distance.
inline int64_t near_edges(int64_t structures, const int64_t* offset, const List* lists, const double* positions,
                          const double* cells, double cutoff, int64_t* first_edge, int64_t* center, int64_t* neighbor,
                          double* vector, double& least) {
  const double most = cutoff * cutoff;
  std::vector<double> images;
  least = INFINITY;
  int64_t e = 0;
  for (int64_t s = 0; s < structures; ++s) {
    const List& list = lists[s];
    const double *r = positions + 3 * offset[s], *cell = cells + 9 * s;
    images.resize(std::max(images.size(), size_t(3 * list.images)));
    for (int64_t g = 0; g < list.images; ++g) {
      double by[3];
      shifted(list.shift + 3 * g, cell, by);
      for (int c = 0; c < 3; ++c) images[3 * g + c] = r[3 * list.atom[g] + c] + by[c];
    }
    const int64_t* image = list.image;
    for (int64_t i = offset[s]; i < offset[s + 1]; ++i, r += 3) {
      first_edge[i] = e;
      for (const int64_t* end = image + list.counts[i - offset[s]]; image < end; ++image) {
        // Written in any case, and kept where it is near: half of the branches would be guessed wrongly.
        const double* at = images.data() + 3 * *image;
        double* d = vector + 3 * e;
        for (int c = 0; c < 3; ++c) d[c] = at[c] - r[c];
        const double length = squared(d);
        center[e] = i;
        neighbor[e] = offset[s] + list.atom[*image];
        e += length < most;
        least = length < least ? length : least;
      }
    }
  }
  first_edge[offset[structures]] = e;
  return e;
}

/// What the search of one structure found, sorted by (i, j, S).
struct Found {
  std::vector<int64_t> counts, image, atom;
  std::vector<double> shift;
};

/// Every pair |r_j − r_i + S·lattice| < cutoff of n atoms, both ways round, by looking at all that may be so near.
/// Rows of ``lattice`` are zero along axes that are not periodic; ``dual`` is its pseudo-inverse. Returns whether it was
/// done: not where atoms lie so many cells apart that a table of their images would be too large.
inline bool search(int64_t n, const uint8_t* real, const double* r, const double* lattice, const double* dual,
                   double cutoff, Found& found) {
  struct Pair {
    int64_t j;
    int32_t s[3];
  };
  std::vector<Pair> pairs;
  int64_t low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
  double reach[3];  // lattice planes within the cut-off
  for (int k = 0; k < 3; ++k) {
    const double column[3] = {dual[k], dual[3 + k], dual[6 + k]};
    reach[k] = cutoff * std::sqrt(squared(column)) + 1e-9;
  }
  found.counts.assign(n, 0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      if (!real[i] || !real[j]) continue;
      const double d[3] = {r[3 * j] - r[3 * i], r[3 * j + 1] - r[3 * i + 1], r[3 * j + 2] - r[3 * i + 2]};
      int64_t from[3], to[3];
      for (int k = 0; k < 3; ++k) {
        const double f = d[0] * dual[k] + d[1] * dual[3 + k] + d[2] * dual[6 + k];
        if (!(std::fabs(f) < 1e6)) return false;
        const bool periodic = lattice[3 * k] != 0 || lattice[3 * k + 1] != 0 || lattice[3 * k + 2] != 0;
        from[k] = periodic ? int64_t(std::ceil(-f - reach[k])) : 0;
        to[k] = periodic ? int64_t(std::floor(-f + reach[k])) : 0;
      }
      for (int64_t a = from[0]; a <= to[0]; ++a)
        for (int64_t b = from[1]; b <= to[1]; ++b)
          for (int64_t c = from[2]; c <= to[2]; ++c) {
            const double s[3] = {double(a), double(b), double(c)};
            double v[3];
            shifted(s, lattice, v);
            for (int x = 0; x < 3; ++x) v[x] += d[x];
            if (!(squared(v) < cutoff * cutoff) || (i == j && !a && !b && !c)) continue;
            pairs.push_back({j, {int32_t(a), int32_t(b), int32_t(c)}});
            const int64_t whole[3] = {a, b, c};
            for (int x = 0; x < 3; ++x) low[x] = std::min(low[x], whole[x]), high[x] = std::max(high[x], whole[x]);
            ++found.counts[i];
          }
    }
  const int64_t wide[3] = {high[0] - low[0] + 1, high[1] - low[1] + 1, high[2] - low[2] + 1};
  constexpr int64_t LARGEST = int64_t(1) << 22;
  if (wide[0] > LARGEST / (wide[1] * wide[2]) || n * wide[0] * wide[1] * wide[2] > LARGEST) return false;
  const auto place = [&](const Pair& p) {
    return ((p.j * wide[0] + p.s[0] - low[0]) * wide[1] + p.s[1] - low[1]) * wide[2] + p.s[2] - low[2];
  };
  std::vector<int32_t> number(size_t(n * wide[0] * wide[1] * wide[2]), -1);
  for (const Pair& p : pairs) number[place(p)] = 0;
  found.atom.clear(), found.shift.clear(), found.image.clear();
  for (size_t at = 0; at < number.size(); ++at) {
    if (number[at] < 0) continue;
    number[at] = int32_t(found.atom.size());
    const int64_t last = int64_t(at) / wide[2], middle = last / wide[1];
    found.atom.push_back(middle / wide[0]);
    for (double x : {double(middle % wide[0] + low[0]), double(last % wide[1] + low[1]), double(int64_t(at) % wide[2] + low[2])})
      found.shift.push_back(x);
  }
  for (const Pair& p : pairs) found.image.push_back(number[place(p)]);
  return true;
}

}  // namespace dpa1
