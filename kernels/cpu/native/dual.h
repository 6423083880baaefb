// Dual numbers x + ε ẋ, ε² = 0, in vectors: what is computed with them comes with its derivative along one direction.
//
// An array of them is two *planes* of plain numbers, so that products of matrices stay products of matrices:
// (A + ε Ȧ)(B + ε Ḃ) = A B + ε (Ȧ B + A Ḃ).
#pragma once

#include <type_traits>

#include "arena.h"
#include "gemm.h"

namespace dpa1 {

template <class R>
struct Dual {
  Vec<R> value, slope;
};

template <class R>
inline Vec<R> value_of(Dual<R> x) {
  return x.value;
}

template <class R>
inline Dual<R> operator+(Dual<R> a, Dual<R> b) { return {a.value + b.value, a.slope + b.slope}; }
template <class R>
inline Dual<R> operator-(Dual<R> a, Dual<R> b) { return {a.value - b.value, a.slope - b.slope}; }
template <class R>
inline Dual<R> operator-(Dual<R> a) { return {-a.value, -a.slope}; }
template <class R>
inline Dual<R> operator*(Dual<R> a, Dual<R> b) { return {a.value * b.value, a.slope * b.value + a.value * b.slope}; }
template <class R>
inline Dual<R> operator/(Dual<R> a, Dual<R> b) {
  const Vec<R> q = a.value / b.value;
  return {q, (a.slope - q * b.slope) / b.value};
}
template <class R>
inline Dual<R> operator+(Dual<R> a, std::common_type_t<R> b) { return {a.value + b, a.slope}; }
template <class R>
inline Dual<R> operator+(std::common_type_t<R> a, Dual<R> b) { return {a + b.value, b.slope}; }
template <class R>
inline Dual<R> operator-(Dual<R> a, std::common_type_t<R> b) { return {a.value - b, a.slope}; }
template <class R>
inline Dual<R> operator-(std::common_type_t<R> a, Dual<R> b) { return {a - b.value, -b.slope}; }
template <class R>
inline Dual<R> operator*(Dual<R> a, std::common_type_t<R> b) { return {a.value * b, a.slope * b}; }
template <class R>
inline Dual<R>& operator+=(Dual<R>& a, Dual<R> b) { return a = a + b; }

// Weights are no duals: nobody moves along them.
template <class R>
inline Dual<R> times(Dual<R> a, Vec<R> b) { return {a.value * b, a.slope * b}; }
template <class V>
inline V times(V a, V b) { return a * b; }
template <class R>
inline Dual<R> plus(Dual<R> a, Vec<R> b) { return {a.value + b, a.slope}; }
template <class V>
inline V plus(V a, V b) { return a + b; }

template <class M, class R>
inline Dual<R> select(M mask, Dual<R> a, Dual<R> b) {
  return {mask ? a.value : b.value, mask ? a.slope : b.slope};
}

template <class R>
inline Dual<R> exp(Dual<R> x) {
  const Vec<R> e = exp(x.value);
  return {e, e * x.slope};
}

template <class R>
inline Dual<R> tanh(Dual<R> x) {
  const Vec<R> t = tanh<R>(x.value);
  return {t, (R(1) - t * t) * x.slope};
}

template <class R>
inline Dual<R> sigmoid(Dual<R> x) {
  const Vec<R> s = sigmoid<R>(x.value);
  return {s, s * (R(1) - s) * x.slope};
}

template <class R>
inline Dual<R> log_one_plus(Dual<R> x) {
  return {log_one_plus<R>(x.value), x.slope / (R(1) + x.value)};
}

/// A vector of plain (P = 1) or dual (P = 2) numbers, and one such number.
template <class R, int P>
using Lane = std::conditional_t<P == 1, Vec<R>, Dual<R>>;

template <class R, int P>
struct Scalar {
  R at[P];
};

template <class R>
inline Vec<R> spread(Scalar<R, 1> x) { return splat(x.at[0]); }
template <class R>
inline Dual<R> spread(Scalar<R, 2> x) { return {splat(x.at[0]), splat(x.at[1])}; }
template <class R>
inline Scalar<R, 2> total(Dual<R> x) { return {{sum<R>(x.value), sum<R>(x.slope)}}; }
template <class R, class V, class = std::enable_if_t<std::is_same_v<V, Vec<R>>>>
inline Scalar<R, 1> total(V x) { return {{sum<R>(x)}}; }

/// A row-major matrix of plain or dual numbers; rows are ``ld`` apart.
template <class R, int P>
struct Planes {
  R* plane[P] = {};
  ptrdiff_t ld = 0;

  using T = Lane<R, P>;
  T get(ptrdiff_t at) const {
    if constexpr (P == 1)
      return load(plane[0] + at);
    else
      return {load(plane[0] + at), load(plane[1] + at)};
  }
  void put(ptrdiff_t at, T x) const {
    if constexpr (P == 1)
      store(plane[0] + at, x);
    else
      store(plane[0] + at, x.value), store(plane[1] + at, x.slope);
  }
  void add(ptrdiff_t at, T x) const { put(at, get(at) + x); }
  Scalar<R, P> one(ptrdiff_t at) const {
    Scalar<R, P> x;
    for (int p = 0; p < P; ++p) x.at[p] = plane[p][at];
    return x;
  }
  Planes from(ptrdiff_t at) const {
    Planes x = *this;
    for (R*& p : x.plane) p += at;
    return x;
  }
  explicit operator bool() const { return plane[0] != nullptr; }
};

/// Room for ``rows`` rows of n numbers; contents are whatever was there, or zeros.
template <class R, int P>
Planes<R, P> take(Arena& arena, size_t rows, int n, bool zeros = false) {
  Planes<R, P> x;
  x.ld = padded<R>(n);
  for (R*& p : x.plane) {
    p = arena.take<R>(rows * size_t(x.ld));
    if (zeros) std::fill(p, p + rows * size_t(x.ld), R(0));
  }
  return x;
}

/// C (m, n) = A (m, k) B (k, n), or added to what stands there; B are weights.
template <class R, int P>
void product(int m, int n, int k, Planes<R, P> a, const R* b, ptrdiff_t ldb, Planes<R, P> c, Start start) {
  for (int p = 0; p < P; ++p) gemm<R>(m, n, k, {a.plane[p], a.ld, 1}, b, ldb, c.plane[p], c.ld, start);
}

/// C (m, n) = A (m, k) B (k, n), or added; A is given as (k, m) where ``turned``.
template <class R, int P>
void product(int m, int n, int k, Planes<R, P> a, bool turned, Planes<R, P> b, Planes<R, P> c, Start start) {
  const auto left = [&](int p) { return turned ? Strided<R>{a.plane[p], 1, a.ld} : Strided<R>{a.plane[p], a.ld, 1}; };
  gemm<R>(m, n, k, left(0), b.plane[0], b.ld, c.plane[0], c.ld, start);
  if constexpr (P == 2) {
    gemm<R>(m, n, k, left(1), b.plane[0], b.ld, c.plane[1], c.ld, start);
    gemm<R>(m, n, k, left(0), b.plane[1], b.ld, c.plane[1], c.ld, Start::add);
  }
}

/// The gradient (m, n) of weights W, y = x W, from x (rows, m) and dE/dy (rows, n), added to what stands there: of E
/// itself from plain numbers, of its derivative from dual ones.
template <class R, int P>
void weight_gradient(int m, int n, int rows, Planes<R, P> x, Planes<R, P> g, R* out, ptrdiff_t ldo) {
  for (int p = 0; p < P; ++p)
    gemm<R>(m, n, rows, {x.plane[p], 1, x.ld}, g.plane[P - 1 - p], g.ld, out, ldo, Start::add);
}

/// What belongs to a weight of the number x: x itself, or its slope.
template <class R>
inline Vec<R> of_weight(Vec<R> x) { return x; }
template <class R>
inline Vec<R> of_weight(Dual<R> x) { return x.slope; }

/// out (n, rows) = the transpose of in (rows, n); columns rows.. of a vector's width become zero.
template <class R, int P>
void transpose(int rows, int n, Planes<R, P> in, Planes<R, P> out) {
  constexpr int W = Lanes<R>::W;
  for (int p = 0; p < P; ++p)
    for (int i0 = 0; i0 < rows; i0 += W)
      for (int j0 = 0; j0 < n; j0 += W) {
        Vec<R> v[W];
        for (int l = 0; l < W; ++l) v[l] = i0 + l < rows ? load(in.plane[p] + (i0 + l) * in.ld + j0) : Vec<R>{};
        detail::turn<R>(v);
        for (int l = 0; l < W && j0 + l < n; ++l) store(out.plane[p] + (j0 + l) * out.ld + i0, v[l]);
      }
}

}  // namespace dpa1
