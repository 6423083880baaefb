// The embedding as Chebyshev series of s, equal to the net to rounding; the series come from kernels/cpu/radial.py.
//
//     g = Σ_k c[0, k] T_k(x) (+ sw·Σ_k c[1, k] T_k(x) in smooth strip mode),   x = (2s − lo − hi)/(hi − lo)
#pragma once

#include <vector>

#include "arena.h"
#include "gemm.h"

namespace dpa1 {

/// Series of one pair of types: c (sets, terms, width), and the same for dg/ds. Rows are whole vectors, 0 beyond ``width``;
/// ``turned`` is c once more as (sets, width, terms), rows whole vectors too.
template <class R>
struct Series {
  double lo = 0, hi = 1;
  int sets = 0, terms = 0, width = 0;
  int stride = 0, turned_stride = 0;
  std::vector<R> c, slope, turned;

  Series() = default;
  Series(double lo, double hi, int sets, int terms, int width, const double* c_in, const double* slope_in)
      : lo(lo), hi(hi), sets(sets), terms(terms), width(width), stride(padded<R>(width)), turned_stride(padded<R>(terms)),
        c(size_t(sets) * terms * stride), slope(c.size()), turned(size_t(sets) * width * turned_stride) {
    for (int s = 0; s < sets; ++s)
      for (int k = 0; k < terms; ++k)
        for (int i = 0; i < width; ++i) {
          const size_t from = (size_t(s) * terms + k) * width + i, to = (size_t(s) * terms + k) * stride + i;
          c[to] = R(c_in[from]), slope[to] = R(slope_in[from]);
          turned[(size_t(s) * width + i) * turned_stride + k] = c[to];
        }
  }

  const R* set(int k) const { return c.data() + size_t(k) * terms * stride; }
  const R* slope_set(int k) const { return slope.data() + size_t(k) * terms * stride; }
  const R* turned_set(int k) const { return turned.data() + size_t(k) * width * turned_stride; }
};

/// Neighbours [begin, end) of one type, after sorting by type.
struct Segment {
  int type, begin, end;
};

/// T_0 … T_(terms−1) at n values of s, in float64 by the three-term recurrence, as rows of ``width`` numbers.
template <class R>
inline R* polynomials(const double* s, int n, int width, double lo, double hi, int terms, Arena& arena) {
  R* t = arena.take<R>(size_t(terms) * width);
  constexpr int W = Lanes<double>::W;
  const double middle = 0.5 * (lo + hi), factor = 2.0 / (hi - lo);
  for (int i = 0; i < width; i += W) {
    double lane[W];
    for (int l = 0; l < W; ++l) lane[l] = i + l < n ? (s[i + l] - middle) * factor : 0.0;
    const Vec<double> x = load(lane);
    Vec<double> before = splat(1.0), now = x;
    for (int k = 0; k < terms; ++k) {
      R* out = t + size_t(k) * width + i;
      for (int l = 0; l < W; ++l) out[l] = R(before[l]);
      const Vec<double> next = now * x * 2.0 - before;
      before = now, now = next;
    }
  }
  return t;
}

/// out (width, N) = Σ over the pair's series at every neighbour; ``gate`` is the switch (N) for a second set.
template <class R>
void expand(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments, const R* t, const R* gate,
            int N, R* out, Arena& scratch) {
  constexpr int W = Lanes<R>::W;
  const Exact exact;  // the terms of a series cancel
  for (const Segment& seg : segments) {
    const Series<R>& s = *series[seg.type];
    const int first = seg.begin / W * W, last = (seg.end + W - 1) / W * W, width = last - first, m = s.width;
    const auto mark = scratch.mark();
    R* tmp = scratch.take<R>(size_t(m) * width);
    const Strided<R> c{s.set(0), 1, s.stride};
    const bool whole = segments.size() == 1 && s.sets == 1;
    gemm<R>(m, width, s.terms, c, t + first, N, whole ? out + first : tmp, whole ? N : width);
    if (!whole) {
      if (s.sets == 2) {
        R* second = scratch.take<R>(size_t(m) * width);
        const Strided<R> c2{s.set(1), 1, s.stride};
        gemm<R>(m, width, s.terms, c2, t + first, N, second, width);
        for (int k = 0; k < m; ++k)
          for (int i = 0; i < width; i += W) {
            const size_t at = size_t(k) * width + i;
            store(tmp + at, load(tmp + at) + load(gate + first + i) * load(second + at));
          }
      }
      for (int k = 0; k < m; ++k)
        std::memcpy(out + size_t(k) * N + seg.begin, tmp + size_t(k) * width + (seg.begin - first),
                    size_t(seg.end - seg.begin) * sizeof(R));
    }
    scratch.release(mark);
  }
  if (segments.empty()) return;
  // Columns beyond the last neighbour: any finite number serves.
  const int n = segments.back().end;
  const int m = series[segments.back().type]->width;
  if (n < N)
    for (int k = 0; k < m; ++k) std::fill(out + size_t(k) * N + n, out + size_t(k) * N + N, R(0));
}

/// dE/ds (N) and, where there is a second set, dE/dsw (N), added, from dE/d(out) (width, N), zero beyond n.
template <class R>
void expand_backward(const std::vector<const Series<R>*>& series, const std::vector<Segment>& segments, const R* t,
                     const R* gate, const R* grad, int N, double* g_s, double* g_sw, Arena& scratch) {
  constexpr int W = Lanes<R>::W;
  const Exact exact;  // the terms of a series cancel
  for (const Segment& seg : segments) {
    const Series<R>& s = *series[seg.type];
    const int first = seg.begin / W * W, last = (seg.end + W - 1) / W * W, width = last - first, m = s.width;
    const auto mark = scratch.mark();
    R *tmp = scratch.take<R>(size_t(m) * width), *sums = scratch.take<R>(width);
    const auto along = [&](const R* c) {
      gemm<R>(m, width, s.terms, {c, 1, s.stride}, t + first, N, tmp, width);
      for (int i = 0; i < width; i += W) {
        Vec<R> v = {};
        for (int k = 0; k < m; ++k) v += load(tmp + size_t(k) * width + i) * load(grad + size_t(k) * N + first + i);
        store(sums + i, v);
      }
    };
    along(s.slope_set(0));
    for (int i = seg.begin; i < seg.end; ++i) g_s[i] += sums[i - first];
    if (s.sets == 2) {
      along(s.slope_set(1));
      for (int i = seg.begin; i < seg.end; ++i) g_s[i] += double(sums[i - first]) * gate[i];
      along(s.set(1));
      for (int i = seg.begin; i < seg.end; ++i) g_sw[i] += sums[i - first];
    }
    scratch.release(mark);
  }
}

}  // namespace dpa1
