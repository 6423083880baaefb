// All pairs of one structure within a cut-off, by a grid of cells over atoms and their periodic images: cost follows atoms.
//
// The vector of a pair is (r_j − r_i) + S·cell with S·cell = (s₀ a + s₁ b) + s₂ c, its square (x² + y²) + z², each operation
// rounded by itself: the same bits as lists made on a GPU have (structures/on_device/pairs.py). Elsewhere products that are
// added stand as std::fma, so that bits depend on nothing but a pair's own numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "near.h"

namespace dpa1 {

/// S·cell, rows of the cell being lattice vectors.
inline void shifted(const double* s, const double* cell, double* out) {
  for (int c = 0; c < 3; ++c) out[c] = std::fma(s[2], cell[6 + c], std::fma(s[1], cell[3 + c], s[0] * cell[c]));
}

inline double squared(const double* d) { return std::fma(d[2], d[2], std::fma(d[1], d[1], d[0] * d[0])); }

/// A product that is rounded by itself, not within a multiply-add.
inline double rounded(double x) {
#if defined(__GNUC__) && defined(__x86_64__)
  __asm__("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

/// n atoms at ``position`` (n, 3) Å; those that are not ``real`` are left out. Rows of ``lattice`` are zero along axes that
/// are not periodic; ``dual`` is its pseudo-inverse.
struct Box {
  int64_t n;
  const uint8_t* real;
  const double *position, *lattice, *dual;
};

class Grid {
 public:
  /// Atoms, their images within ``cutoff`` of the box, and the cells that these lie in. Returns whether it was done: not
  /// where atoms lie too many lattice vectors apart to be counted, or have too many images.
  bool build(const Box& box, double cutoff) {
    box_ = box;
    // A pair is judged by its vector, which rounds otherwise than the places in the grid.
    cut_ = cutoff * (1 + 1e-12) + 1e-9, exact_ = cutoff * cutoff;
    return images() && (cells(), true);
  }

  /// visit(i, j, S, d) for every pair |d| < cutoff with d = r_j + S·lattice − r_i, sorted by (i, j, S); before those of an
  /// atom room(how many there are at most).
  template <class Room, class Visit>
  void pairs(Room room, Visit visit) {
    std::vector<int32_t> row;
    for (int64_t i = 0; i < box_.n; ++i) {
      if (!box_.real[i]) continue;
      near(i, row);
      room(row.size());
      const double *r = box_.position + 3 * i, *own = whole_.data() + 3 * i;
      const bool inside = own[0] == 0 && own[1] == 0 && own[2] == 0;
      for (int32_t g : row) {
        const Image& image = images_[size_t(g)];
        const double* to = box_.position + 3 * image.atom;
        double s[3], by[3], d[3];
        for (int c = 0; c < 3; ++c) s[c] = image.shift[c] + own[c], by[c] = image.by[c];
        if (!inside) through(s, by);
        for (int c = 0; c < 3; ++c) d[c] = (to[c] - r[c]) + by[c];
        if (rounded(rounded(d[0] * d[0]) + rounded(d[1] * d[1])) + rounded(d[2] * d[2]) < exact_)
          visit(i, image.atom, s, d);
      }
    }
  }

 private:
  /// Atom j with S = ``shift`` as an atom within the box sees it: by = S·lattice, at = r_j + by.
  struct Image {
    int64_t atom;
    double shift[3], by[3], at[3];
  };

  static constexpr int64_t MOST_IMAGES = int64_t(1) << 27;

  void through(const double* s, double* by) const {
    const double* a = box_.lattice;
    for (int c = 0; c < 3; ++c)
      by[c] = rounded(rounded(s[0] * a[c]) + rounded(s[1] * a[3 + c])) + rounded(s[2] * a[6 + c]);
  }

  /// Images in the order of (j, S); where the atoms lie in units of the lattice, and how many whole vectors outside.
  bool images() {
    const double *dual = box_.dual, *lattice = box_.lattice;
    double reach[3];  // lattice planes within the cut-off
    bool periodic[3];
    for (int k = 0; k < 3; ++k) {
      const double column[3] = {dual[k], dual[3 + k], dual[6 + k]};
      reach[k] = cut_ * std::sqrt(squared(column)) + 1e-9;
      periodic[k] = lattice[3 * k] != 0 || lattice[3 * k + 1] != 0 || lattice[3 * k + 2] != 0;
    }
    whole_.assign(size_t(3 * box_.n), 0.0), self_.assign(size_t(box_.n), -1);
    images_.clear();
    for (int64_t j = 0; j < box_.n; ++j) {
      if (!box_.real[j]) continue;
      const double* r = box_.position + 3 * j;
      double* whole = whole_.data() + 3 * j;
      int64_t from[3] = {}, to[3] = {};
      for (int k = 0; k < 3; ++k) {
        if (!periodic[k]) continue;
        const double f = r[0] * dual[k] + r[1] * dual[3 + k] + r[2] * dual[6 + k];
        if (!(std::fabs(f) < 1e6)) return false;
        whole[k] = std::floor(f);
        from[k] = int64_t(std::ceil(whole[k] - f - reach[k])), to[k] = int64_t(std::floor(1.0 + reach[k] + whole[k] - f));
      }
      for (int64_t a = from[0]; a <= to[0]; ++a)
        for (int64_t b = from[1]; b <= to[1]; ++b)
          for (int64_t c = from[2]; c <= to[2]; ++c) {
            if (!a && !b && !c) self_[size_t(j)] = int32_t(images_.size());
            Image image{j, {double(a) - whole[0], double(b) - whole[1], double(c) - whole[2]}, {}, {}};
            through(image.shift, image.by);
            for (int x = 0; x < 3; ++x) image.at[x] = r[x] + image.by[x];
            images_.push_back(image);
          }
      if (int64_t(images_.size()) > MOST_IMAGES) return false;
    }
    return true;
  }

  /// Sorts the images into cells no smaller than the cut-off and about as many as there are images, coarser where they lie
  /// far apart.
  void cells() {
    double high[3];
    for (int c = 0; c < 3; ++c) low_[c] = INFINITY, high[c] = -INFINITY;
    for (const Image& image : images_)
      for (int c = 0; c < 3; ++c) low_[c] = std::min(low_[c], image.at[c]), high[c] = std::max(high[c], image.at[c]);
    const double most = 4.0 * double(images_.size()) + 64.0;
    double count[3];
    for (int c = 0; c < 3; ++c) count[c] = std::max(1.0, std::floor((high[c] - low_[c]) / cut_));
    while (count[0] * count[1] * count[2] > most) {
      double& largest = *std::max_element(count, count + 3);
      largest = std::max(1.0, std::floor(largest / 2));
    }
    for (int c = 0; c < 3; ++c) {
      count_[c] = int64_t(count[c]);
      per_[c] = high[c] > low_[c] ? count[c] / (high[c] - low_[c]) : 0.0;
    }
    const size_t total = size_t(count_[0] * count_[1] * count_[2]);
    start_.assign(total + 1, 0);
    cell_.resize(images_.size());
    for (size_t g = 0; g < images_.size(); ++g) {
      int64_t at[3];
      cell_of(images_[g].at, at);
      cell_[g] = (at[0] * count_[1] + at[1]) * count_[2] + at[2];
      ++start_[size_t(cell_[g]) + 1];
    }
    for (size_t k = 0; k < total; ++k) start_[k + 1] += start_[k];
    next_.assign(start_.begin(), start_.end() - 1);
    id_.resize(images_.size());
    for (std::vector<double>& x : sorted_) x.resize(images_.size());
    ascending_.resize(images_.size());
    for (size_t g = 0; g < images_.size(); ++g) {
      const size_t k = size_t(next_[size_t(cell_[g])]++);
      id_[k] = int32_t(g);
      for (int c = 0; c < 3; ++c) sorted_[c][k] = images_[g].at[c];
    }
  }

  void cell_of(const double* x, int64_t* at) const {
    for (int c = 0; c < 3; ++c)
      at[c] = std::min(count_[c] - 1, std::max(int64_t(0), int64_t((x[c] - low_[c]) * per_[c])));
  }

  /// The images near atom i's own place in the box, sorted.
  void near(int64_t i, std::vector<int32_t>& row) {
    const int32_t self = self_[size_t(i)];
    const double* r = images_[size_t(self)].at;
    int64_t at[3], from[3], to[3];
    cell_of(r, at);
    for (int c = 0; c < 3; ++c) from[c] = std::max(int64_t(0), at[c] - 1), to[c] = std::min(count_[c] - 1, at[c] + 1);
    size_t n = 0;
    for (int64_t a = from[0]; a <= to[0]; ++a)
      for (int64_t b = from[1]; b <= to[1]; ++b) {
        // Cells along the last axis lie one after another.
        const int64_t base = (a * count_[1] + b) * count_[2];
        const size_t begin = size_t(start_[size_t(base + from[2])]), end = size_t(start_[size_t(base + to[2] + 1)]);
        const size_t room = n + (end - begin) + NEAR_ROOM;
        if (row.size() < room) row.resize(2 * room);
        n += near_points(sorted_, id_.data(), begin, end, r, cut_ * cut_, self, row.data() + n);
      }
    row.resize(n);
    for (int32_t g : row) ascending_.put(g);
    ascending_.take(row.data());
  }

  Box box_{};
  double cut_ = 0, exact_ = 0;
  std::vector<Image> images_;
  std::vector<double> whole_, sorted_[3];
  std::vector<int32_t> self_, id_;
  std::vector<int64_t> start_, next_, cell_;
  double low_[3], per_[3];
  int64_t count_[3];
  Ascending ascending_;
};

/// Pairs of one structure, sorted by centre; arrays are as long as they ever had to be.
struct FreshEdges {
  std::vector<int64_t> center, neighbor;
  std::vector<double> vector;
  size_t count = 0;
  double least = INFINITY;  // the smallest square of a distance

  // Not inlined: who holds one for each thread would look for it again at every pair.
  [[gnu::noinline]] bool search(const Box& box, double cutoff) {
    count = 0, least = INFINITY;
    if (!grid_.build(box, cutoff)) return false;
    int64_t *c = nullptr, *n = nullptr;
    double *v = nullptr, smallest = INFINITY;
    size_t used = 0;
    grid_.pairs(
        [&](size_t most) {
          if (center.size() < used + most) {
            const size_t size = 2 * (used + most);
            center.resize(size), neighbor.resize(size), vector.resize(3 * size);
          }
          c = center.data(), n = neighbor.data(), v = vector.data();
        },
        [&](int64_t i, int64_t j, const double*, const double* d) {
          c[used] = i, n[used] = j;
          std::copy_n(d, 3, v + 3 * used++);
          smallest = std::min(smallest, squared(d));
        });
    count = used, least = smallest;
    return true;
  }

 private:
  Grid grid_;
};

}  // namespace dpa1
