// Vectors of the machine's width and the functions of them that the engine needs.
//
// GCC's and Clang's vector types: plain C++, any architecture; the width is fixed when the file is compiled.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#define DPA1_BYTES 64
#elif defined(__AVX2__)
#define DPA1_BYTES 32
#else
#define DPA1_BYTES 16
#endif

namespace dpa1 {

template <class R>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(DPA1_BYTES)));
  typedef float Loose __attribute__((vector_size(DPA1_BYTES), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(DPA1_BYTES)));
  static constexpr int W = DPA1_BYTES / 4;
};

template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(DPA1_BYTES)));
  typedef double Loose __attribute__((vector_size(DPA1_BYTES), aligned(8), may_alias));
  typedef int64_t I __attribute__((vector_size(DPA1_BYTES)));
  static constexpr int W = DPA1_BYTES / 8;
};

template <class R>
using Vec = typename Lanes<R>::V;

template <class R>
inline Vec<R> load(const R* p) {
  return *reinterpret_cast<const typename Lanes<R>::Loose*>(p);
}

template <class R>
inline void store(R* p, Vec<R> v) {
  *reinterpret_cast<typename Lanes<R>::Loose*>(p) = v;
}

template <class R>
inline Vec<R> splat(R x) {
  return x - Vec<R>{};
}

namespace detail {

/// v with its lanes moved down by S, around the end.
template <class R, int S, size_t... L>
inline Vec<R> moved(Vec<R> v, std::index_sequence<L...>) {
  constexpr int W = Lanes<R>::W;
#ifdef __clang__
  return __builtin_shufflevector(v, v, ((int(L) + S) % W)...);
#else
  using I = typename Lanes<R>::I;
  return __builtin_shuffle(v, I{((int(L) + S) % W)...});
#endif
}

template <class R, int S>
inline R halved(Vec<R> v) {
  if constexpr (S == 0)
    return v[0];
  else
    return halved<R, S / 2>(v + moved<R, S>(v, std::make_index_sequence<size_t(Lanes<R>::W)>()));
}

}  // namespace detail

/// The sum of all lanes, halves by halves.
template <class R>
inline R sum(Vec<R> v) {
  return detail::halved<R, Lanes<R>::W / 2>(v);
}

/// n rounded up to whole vectors.
template <class R>
inline int padded(int n) {
  constexpr int W = Lanes<R>::W;
  return (n + W - 1) / W * W;
}

template <class R>
inline Vec<R> larger(Vec<R> a, Vec<R> b) {
  return a > b ? a : b;
}

// What formulas call so that they also serve vectors of dual numbers (dual.h).

template <class M, class T>
inline T select(M mask, T a, T b) {
  return mask ? a : b;
}

template <class V>
inline V value_of(V v) {
  return v;
}

/// The same number in all lanes of a T.
template <class T, class R>
inline T number(R x) {
  return x - T{};
}

template <class R>
inline Vec<R> root(Vec<R> v) {
  R lane[Lanes<R>::W];
  std::memcpy(lane, &v, sizeof v);
  for (R& x : lane) x = std::sqrt(x);
  std::memcpy(&v, lane, sizeof v);
  return v;
}

/// Applies a scalar function lane by lane, for what is rare.
template <class R, class F>
inline Vec<R> lanewise(Vec<R> v, F f) {
  R lane[Lanes<R>::W];
  std::memcpy(lane, &v, sizeof v);
  for (R& x : lane) x = f(x);
  std::memcpy(&v, lane, sizeof v);
  return v;
}

// e^x = 2^k e^r with r = x - k ln 2, |r| <= ln 2 / 2. Adding MAGIC rounds to an integer and leaves k in the low bits.
// NaN stays NaN; e^x is infinite for x > 88 (709), and no smaller than e^-87 (e^-708).

inline Vec<float> exp(Vec<float> x) {
  using V = Vec<float>;
  using I = Lanes<float>::I;
  const float magic = 12582912.0f;
  const V held = x < -87.0f ? splat(-87.0f) : (x > 88.0f ? splat(88.0f) : x);
  const V shifted = held * 1.44269504088896341f + magic;
  const V k = shifted - magic;
  const V r = (held - k * 0.693359375f) - k * -2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const V y = (V)((I)p + ((I)shifted << 23));
  return x == x ? (x > 88.0f ? splat(float(INFINITY)) : y) : x;
}

inline Vec<double> exp(Vec<double> x) {
  using V = Vec<double>;
  using I = Lanes<double>::I;
  const double magic = 6755399441055744.0;
  const V held = x < -708.0 ? splat(-708.0) : (x > 709.0 ? splat(709.0) : x);
  const V shifted = held * 1.4426950408889634074 + magic;
  const V k = shifted - magic;
  const V r = (held - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  V p = splat(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  const V y = (V)((I)p + ((I)shifted << 52));
  return x == x ? (x > 709.0 ? splat(double(INFINITY)) : y) : x;
}

template <class R>
inline Vec<R> tanh(Vec<R> x) {
  const Vec<R> a = x < 0 ? -x : x;
  const Vec<R> e = exp(a * R(-2));
  const Vec<R> t = (R(1) - e) / (R(1) + e);
  return x < 0 ? -t : t;
}

template <class R>
inline Vec<R> sigmoid(Vec<R> x) {
  return R(1) / (R(1) + exp(-x));
}

template <class R>
inline Vec<R> log_one_plus(Vec<R> x) {
  return lanewise<R>(x, [](R e) { return std::log1p(e); });
}

}  // namespace dpa1
