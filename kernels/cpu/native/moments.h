// X = Σ_j g_j ⊗ row_j (4, M), rows contiguous.
//
// ``moments``: from g as it is. ``SeriesMoments``: without g, for models without attention, by the series of the
// embedding: Y_t = Σ_(j of type t) T(x_j) ⊗ row_j, then X = Σ_t C_tᵀ Y_t. In smooth strip mode g = g_0 + sw g_1, so that
// a second Y carries row·sw.
#pragma once

#include "series.h"

namespace dpa1 {

/// X from g (m, N) and row (4 of N), zero beyond the last neighbour.
template <class R>
void moments(int m, int N, const R* g, R* const row[4], R* x) {
  constexpr int W = Lanes<R>::W;
  for (int k = 0; k < m; ++k) {
    Vec<R> s[4] = {};
    for (int i = 0; i < N; i += W) {
      const Vec<R> v = load(g + size_t(k) * N + i);
      for (int c = 0; c < 4; ++c) s[c] += v * load(row[c] + i);
    }
    for (int c = 0; c < 4; ++c) x[size_t(c) * m + k] = sum<R>(s[c]);
  }
}

/// dE/dg (m, N) and, added, dE/drow from dE/dX (4, m).
template <class R>
void moments_backward(int m, int N, const R* dx, const R* g, R* const row[4], R* dg, R* const drow[4]) {
  constexpr int W = Lanes<R>::W;
  for (int i = 0; i < N; i += W) {
    Vec<R> r[4], d[4] = {};
    for (int c = 0; c < 4; ++c) r[c] = load(row[c] + i);
    for (int k = 0; k < m; ++k) {
      const Vec<R> v = load(g + size_t(k) * N + i);
      Vec<R> out = {};
      for (int c = 0; c < 4; ++c) {
        const R f = dx[size_t(c) * m + k];
        out += r[c] * f;
        d[c] += v * f;
      }
      store(dg + size_t(k) * N + i, out);
    }
    for (int c = 0; c < 4; ++c) store(drow[c] + i, load(drow[c] + i) + d[c]);
  }
}

/// out[q][i] += Σ_k c[k][i] y[k][q] for 4 columns q of y (rows of ``columns`` numbers) and out (4, width).
template <class R>
void combine(const Series<R>& s, int set, int columns, const R* y, R* out) {
  constexpr int W = Lanes<R>::W;
  const R* c = s.set(set);
  for (int i = 0; i < s.width; i += W) {
    Vec<R> total[4] = {};
    for (int k = 0; k < s.terms; ++k) {
      const Vec<R> v = load(c + size_t(k) * s.stride + i);
      for (int q = 0; q < 4; ++q) total[q] += v * y[k * columns + q];
    }
    const int count = std::min(W, s.width - i);
    for (int q = 0; q < 4; ++q) {
      R* to = out + size_t(q) * s.width + i;
      if (count == W)
        store(to, load(to) + total[q]);
      else
        for (int l = 0; l < count; ++l) to[l] += total[q][l];
    }
  }
}

/// The sums of n vectors of W numbers; n is filled up to whole vectors by whoever made ``y``.
template <class R>
void sums_of(int n, const R* y, R* out) {
  constexpr int W = Lanes<R>::W;
  for (int i = 0; i < n; i += W) {
    Vec<R> v[W];
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) v[l] = load(y + size_t(i + l) * W);
    detail::turn<R>(v);
    Vec<R> s = v[0];
#pragma GCC unroll 16
    for (int l = 1; l < W; ++l) s += v[l];
    store(out + i, s);
  }
}

template <class R>
struct SeriesMoments {
  /// X (4, m) from s, sw and row (4 of at least n), all in R; ``x`` is added to.
  static void forward(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments, const double* s,
                      const R* sw, R* const row[4], R* x, Arena& scratch) {
    for (const Segment& seg : segments) {
      const Series<R>& c = *series[seg.type];
      c.sets == 2 ? sum_up<8>(c, seg, s, sw, row, x, scratch) : sum_up<4>(c, seg, s, sw, row, x, scratch);
    }
  }

  /// Adds dE/ds, dE/dsw and dE/drow (4 of float64) from dE/dX (4, m).
  static void backward(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments,
                       const double* s, const R* sw, R* const row[4], const R* dx, double* g_s, double* g_sw,
                       double* const g_row[4], Arena& scratch) {
    for (const Segment& seg : segments) {
      const Series<R>& c = *series[seg.type];
      if (c.sets == 2)
        give_back<8>(c, seg, s, sw, row, dx, g_s, g_sw, g_row, scratch);
      else
        give_back<4>(c, seg, s, sw, row, dx, g_s, g_sw, g_row, scratch);
    }
  }

 private:
  static constexpr int W = Lanes<R>::W;

  /// ``columns`` (4 for each set) is known to the compiler, so that sums stay in registers.
  template <int columns>
  static void sum_up(const Series<R>& c, const Segment& seg, const double* s, const R* sw, R* const row[4], R* x,
                     Arena& scratch) {
    const auto mark = scratch.mark();
    const int sums = padded<R>(c.terms * columns);
    R *y = scratch.take<R>(size_t(sums) * W), *total = scratch.take<R>(sums);
    std::fill(y, y + size_t(sums) * W, R(0));
    for (int j = seg.begin; j < seg.end; j += W) {
      const Block<columns> b(c, seg, j, s, sw, row);
      Vec<R> before = splat(R(1)), now = b.x;
      for (int k = 0; k < c.terms; ++k) {
        R* out = y + size_t(k) * columns * W;
#pragma GCC unroll 8
        for (int q = 0; q < columns; ++q) store(out + q * W, load(out + q * W) + before * b.row[q]);
        const Vec<R> next = now * b.x * R(2) - before;
        before = now, now = next;
      }
    }
    sums_of<R>(sums, y, total);
    for (int set = 0; set < columns / 4; ++set) combine(c, set, columns, total + 4 * set, x);
    scratch.release(mark);
  }

  template <int columns>
  static void give_back(const Series<R>& c, const Segment& seg, const double* s, const R* sw, R* const row[4],
                        const R* dx, double* g_s, double* g_sw, double* const g_row[4], Arena& scratch) {
    const auto mark = scratch.mark();
    const int T = c.turned_stride;
    R *p = scratch.take<R>(size_t(columns) * T), *derived = scratch.take<R>(size_t(columns) * T);
    for (int set = 0; set < columns / 4; ++set) project(c, set, dx, p + size_t(4 * set) * T);
    for (int q = 0; q < columns; ++q) differentiate(c.terms, p + size_t(q) * T, derived + size_t(q) * T);
    const double factor = 2.0 / (c.hi - c.lo);
    for (int j = seg.begin; j < seg.end; j += W) {
      const Block<columns> b(c, seg, j, s, sw, row);
      Vec<R> before = splat(R(1)), now = b.x;
      Vec<R> value[columns] = {}, slope[columns] = {};
      for (int k = 0; k < c.terms; ++k) {
#pragma GCC unroll 8
        for (int q = 0; q < columns; ++q) {
          value[q] += before * p[q * T + k];
          slope[q] += before * derived[q * T + k];
        }
        const Vec<R> next = now * b.x * R(2) - before;
        before = now, now = next;
      }
      Vec<R> ds = {}, dsw = {};
      for (int q = 0; q < columns; ++q) ds += slope[q] * b.row[q];
      if constexpr (columns == 8)
        for (int q = 0; q < 4; ++q) {
          dsw += value[4 + q] * b.row[q];
          value[q] += value[4 + q] * b.sw;
        }
      const int count = std::min(W, seg.end - j);
      for (int l = 0; l < count; ++l) g_s[j + l] += double(ds[l]) * factor;
      if constexpr (columns == 8)
        for (int l = 0; l < count; ++l) g_sw[j + l] += dsw[l];
      for (int q = 0; q < 4; ++q)
        for (int l = 0; l < count; ++l) g_row[q][j + l] += value[q][l];
    }
    scratch.release(mark);
  }

  /// One vector of neighbours: x, the switch, and the rows (times the switch in the second set); nothing beyond the segment.
  template <int columns>
  struct Block {
    Vec<R> x, sw = {}, row[columns];
    Block(const Series<R>& c, const Segment& seg, int j, const double* s, const R* gate, R* const rows[4]) {
      const double middle = 0.5 * (c.lo + c.hi), factor = 2.0 / (c.hi - c.lo);
      const int count = std::min(W, seg.end - j);
      R lane[W];
      for (int l = 0; l < W; ++l) lane[l] = l < count ? R((s[j + l] - middle) * factor) : R(0);
      x = load(lane);
      const auto some = [&](const R* from) {
        for (int l = 0; l < W; ++l) lane[l] = l < count ? from[j + l] : R(0);
        return load(lane);
      };
      for (int q = 0; q < 4; ++q) row[q] = some(rows[q]);
      if constexpr (columns == 8) {
        sw = some(gate);
        for (int q = 0; q < 4; ++q) row[4 + q] = row[q] * sw;
      }
    }
  };

  /// The coefficients of the derivative of a Chebyshev series: d_(k−1) = d_(k+1) + 2k c_k, and half of that first.
  static void differentiate(int terms, const R* c, R* d) {
    double after = 0, now = 0;  // d_(k+1), d_k
    for (int k = terms - 1; k >= 0; --k) {
      d[k] = R(k == 0 ? now / 2 : now);
      const double before = after + 2.0 * k * double(c[k]);
      after = now, now = before;
    }
  }

  /// p[q][k] = Σ_m C[k, m] dX[q, m], rows of ``turned_stride`` numbers.
  static void project(const Series<R>& c, int set, const R* dx, R* p) {
    const R* turned = c.turned_set(set);
    for (int k = 0; k < c.turned_stride; k += W) {
      Vec<R> s[4] = {};
      for (int i = 0; i < c.width; ++i) {
        const Vec<R> v = load(turned + size_t(i) * c.turned_stride + k);
        for (int q = 0; q < 4; ++q) s[q] += v * dx[size_t(q) * c.width + i];
      }
      for (int q = 0; q < 4; ++q) store(p + size_t(q) * c.turned_stride + k, s[q]);
    }
  }
};

}  // namespace dpa1
