// Neighbour lists that last (dpa1_fast/verlet.py): the search of a small structure, and what a step takes of all lists.
//
// Products that are added stand as std::fma, so that the bits of a vector depend on nothing but its own numbers.
#pragma once

#include "grid.h"

namespace dpa1 {

/// The candidates of one structure, as verlet.py's Candidates holds them.
struct List {
  int64_t images;        // distinct (j, S)
  const int64_t* counts;  // (n) candidates of each atom
  const int64_t* image;   // (Σ counts) which (j, S)
  const int64_t* atom;    // (images) j
  const double* shift;    // (images, 3) S
};

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

/// Every pair |r_j − r_i + S·lattice| < cutoff of the atoms in a box, both ways round. Returns whether it was done: not
/// where atoms lie so many cells apart that a table of their images would be too large.
inline bool search(const Box& box, double cutoff, Found& found) {
  struct Pair {
    int64_t j;
    int32_t s[3];
  };
  std::vector<Pair> pairs;
  const int64_t n = box.n;
  int64_t low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
  found.counts.assign(size_t(n), 0);
  Grid grid;
  if (!grid.build(box, cutoff)) return false;
  grid.pairs([](size_t) {}, [&](int64_t i, int64_t j, const double* s, const double*) {
    pairs.push_back({j, {int32_t(s[0]), int32_t(s[1]), int32_t(s[2])}});
    for (int x = 0; x < 3; ++x) low[x] = std::min(low[x], int64_t(s[x])), high[x] = std::max(high[x], int64_t(s[x]));
    ++found.counts[size_t(i)];
  });
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
