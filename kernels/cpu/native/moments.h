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

/// Σ_k over ``count`` rows of c (·, width): out[q] += y[k][q] c[k], for 4 columns q of y and out (4, width).
template <class R>
void combine(int count, int width, const R* c, const R* y, R* out) {
  constexpr int W = Lanes<R>::W;
  int i = 0;
  for (; i + W <= width; i += W) {
    Vec<R> s[4];
    for (int q = 0; q < 4; ++q) s[q] = load(out + size_t(q) * width + i);
    for (int k = 0; k < count; ++k) {
      const Vec<R> v = load(c + size_t(k) * width + i);
      for (int q = 0; q < 4; ++q) s[q] += v * y[4 * k + q];
    }
    for (int q = 0; q < 4; ++q) store(out + size_t(q) * width + i, s[q]);
  }
  for (; i < width; ++i)
    for (int q = 0; q < 4; ++q) {
      R s = out[size_t(q) * width + i];
      for (int k = 0; k < count; ++k) s += c[size_t(k) * width + i] * y[4 * k + q];
      out[size_t(q) * width + i] = s;
    }
}

template <class R>
struct SeriesMoments {
  /// X (4, m) from s, sw and row (4 of at least n), all in R; ``x`` is added to.
  static void forward(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments, const double* s,
                      const R* sw, R* const row[4], R* x, Arena& scratch) {
    constexpr int W = Lanes<R>::W;
    for (const Segment& seg : segments) {
      const Series<R>& c = *series[seg.type];
      const auto mark = scratch.mark();
      const int columns = 4 * c.sets;
      R* y = scratch.take<R>(size_t(c.terms) * columns * W);
      std::fill(y, y + size_t(c.terms) * columns * W, R(0));
      for (int j = seg.begin; j < seg.end; j += W) {
        Block b(c, seg, j, s, sw, row);
        Vec<R> before = splat(R(1)), now = b.x;
        for (int k = 0; k < c.terms; ++k) {
          R* out = y + size_t(k) * columns * W;
          for (int q = 0; q < columns; ++q) store(out + q * W, load(out + q * W) + before * b.row[q]);
          const Vec<R> next = now * b.x * R(2) - before;
          before = now, now = next;
        }
      }
      R* total = scratch.take<R>(size_t(c.terms) * 4);
      for (int set = 0; set < c.sets; ++set) {
        for (int k = 0; k < c.terms; ++k)
          for (int q = 0; q < 4; ++q) total[4 * k + q] = sum<R>(load(y + (size_t(k) * columns + 4 * set + q) * W));
        combine(c.terms, c.width, c.set(set), total, x);
      }
      scratch.release(mark);
    }
  }

  /// Adds dE/ds, dE/dsw and dE/drow (4 of float64) from dE/dX (4, m).
  static void backward(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments,
                       const double* s, const R* sw, R* const row[4], const R* dx, double* g_s, double* g_sw,
                       double* const g_row[4], Arena& scratch) {
    constexpr int W = Lanes<R>::W;
    for (const Segment& seg : segments) {
      const Series<R>& c = *series[seg.type];
      const auto mark = scratch.mark();
      const int columns = 4 * c.sets;
      R* p = scratch.take<R>(size_t(c.terms) * columns);  // Σ_m C[k, m] dX[q, m]
      for (int set = 0; set < c.sets; ++set)
        for (int k = 0; k < c.terms; ++k) project(c.set(set) + size_t(k) * c.width, dx, c.width, p + k * columns + 4 * set);
      R* derived = scratch.take<R>(size_t(c.terms) * columns);
      differentiate(c.terms, columns, p, derived);
      for (int j = seg.begin; j < seg.end; j += W) {
        Block b(c, seg, j, s, sw, row);
        Vec<R> before = splat(R(1)), now = b.x;
        Vec<R> value[8] = {}, slope[8] = {};
        for (int k = 0; k < c.terms; ++k) {
          for (int q = 0; q < columns; ++q) {
            value[q] += before * p[k * columns + q];
            slope[q] += before * derived[k * columns + q];
          }
          const Vec<R> next = now * b.x * R(2) - before;
          before = now, now = next;
        }
        Vec<R> ds = {}, dsw = {};
        for (int q = 0; q < columns; ++q) ds += slope[q] * b.row[q];
        if (c.sets == 2)
          for (int q = 0; q < 4; ++q) {
            dsw += value[4 + q] * b.row[q];
            value[q] += value[4 + q] * b.sw;
          }
        const double factor = 2.0 / (c.hi - c.lo);
        const int count = std::min(W, seg.end - j);
        for (int l = 0; l < count; ++l) {
          g_s[j + l] += double(ds[l]) * factor;
          g_sw[j + l] += dsw[l];
          for (int q = 0; q < 4; ++q) g_row[q][j + l] += value[q][l];
        }
      }
      scratch.release(mark);
    }
  }

 private:
  /// One vector of neighbours: x, the switch, and the rows (times the switch in the second set).
  struct Block {
    Vec<R> x, sw = {}, row[8];
    Block(const Series<R>& c, const Segment& seg, int j, const double* s, const R* gate, R* const rows[4]) {
      constexpr int W = Lanes<R>::W;
      const double middle = 0.5 * (c.lo + c.hi), factor = 2.0 / (c.hi - c.lo);
      const int count = std::min(W, seg.end - j);
      R lane[6][W] = {};
      for (int l = 0; l < count; ++l) {
        lane[0][l] = R((s[j + l] - middle) * factor);
        lane[1][l] = gate ? gate[j + l] : R(0);
        for (int q = 0; q < 4; ++q) lane[2 + q][l] = rows[q][j + l];
      }
      x = load(lane[0]), sw = load(lane[1]);
      for (int q = 0; q < 4; ++q) {
        row[q] = load(lane[2 + q]);
        row[4 + q] = row[q] * sw;
      }
    }
  };

  /// The coefficients of the derivatives of ``columns`` Chebyshev series: d_(k−1) = d_(k+1) + 2k c_k, and half of that first.
  static void differentiate(int terms, int columns, const R* c, R* d) {
    for (int q = 0; q < columns; ++q) {
      double after = 0, now = 0;  // d_(k+1), d_k
      for (int k = terms - 1; k >= 0; --k) {
        d[k * columns + q] = R(k == 0 ? now / 2 : now);
        const double before = after + 2.0 * k * double(c[k * columns + q]);
        after = now, now = before;
      }
    }
  }

  static void project(const R* c, const R* dx, int m, R* out) {
    constexpr int W = Lanes<R>::W;
    Vec<R> s[4] = {};
    int i = 0;
    for (; i + W <= m; i += W) {
      const Vec<R> v = load(c + i);
      for (int q = 0; q < 4; ++q) s[q] += v * load(dx + size_t(q) * m + i);
    }
    for (int q = 0; q < 4; ++q) {
      out[q] = sum<R>(s[q]);
      for (int l = i; l < m; ++l) out[q] += c[l] * dx[size_t(q) * m + l];
    }
  }
};

}  // namespace dpa1
