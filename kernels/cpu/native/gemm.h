// C = A B on small matrices that live in the cache.
//
// A is any strided matrix of scalars, B and C are row-major with rows of whole vectors. Every element of C is one chain
// of multiply-adds in the order of k, whatever the blocking: results do not depend on who shares a matrix with whom.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "vec.h"

namespace dpa1 {

/// What stands in C before the product is added: nothing (or one number per row, where ``rows`` is given), or its own
/// contents.
enum class Start { zero, add };

/// A matrix (m, k) whose element (i, p) is data[i * row + p * col].
template <class R>
struct Strided {
  const R* data;
  ptrdiff_t row, col;
  const Packed* packed = nullptr;
};

/// A matrix of weights W (k, m), and what its products read.
template <class R>
struct Weights {
  std::vector<R> data;
  int m = 0;
  Packed turned, straight_packed;

  Weights() = default;
  /// ``kept``: how many columns the product W·B reads, all by default. ``bfloat16``: for bfloat16 operands.
  Weights(std::vector<R> w, int columns, bool bfloat16, int kept = 0) : data(std::move(w)), m(columns) {
    if constexpr (std::is_same_v<R, float>)
      if (bfloat16 && m > 0) {
        const int k = int(data.size()) / m;
        turned = pack_transposed(k, m, data.data());
        straight_packed = pack_straight(k, m, kept ? kept : m, data.data());
      }
  }

  /// Wᵀ as a left factor.
  Strided<R> transposed() const { return {data.data(), 1, m, &turned}; }
  /// W as a left factor.
  Strided<R> straight() const { return {data.data(), m, 1, &straight_packed}; }
};

namespace detail {

#if DPA1_BYTES == 64
template <int NV>
constexpr int block_rows = NV == 3 ? 8 : NV == 2 ? 12 : 16;
#else
template <int NV>
constexpr int block_rows = NV == 3 ? 4 : NV == 2 ? 5 : 8;
#endif

template <class R, int MR, int NV>
inline void block(int k, Strided<R> a, const R* b, ptrdiff_t ldb, R* c, ptrdiff_t ldc, Start start, const R* rows) {
  constexpr int W = Lanes<R>::W;
  Vec<R> sum[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      sum[r][v] = start == Start::add ? load(c + r * ldc + v * W) : rows ? splat(rows[r]) : Vec<R>{};
  const R* x = a.data;
  for (int p = 0; p < k; ++p, x += a.col, b += ldb) {
    Vec<R> y[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) y[v] = load(b + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const Vec<R> s = splat(x[r * a.row]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] += s * y[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(c + r * ldc + v * W, sum[r][v]);
}

/// The last rows, fewer than 2 MR, by blocks of MR, MR/2, … 1 rows; MR is a power of two.
template <class R, int MR, int NV>
inline void rest(int m, int k, Strided<R> a, const R* b, ptrdiff_t ldb, R* c, ptrdiff_t ldc, Start start,
                 const R* rows) {
  if constexpr (MR >= 1) {
    if (m >= MR) {
      block<R, MR, NV>(k, a, b, ldb, c, ldc, start, rows);
      a.data += MR * a.row;
      c += MR * ldc;
      rows = rows ? rows + MR : rows;
      m -= MR;
    }
    if (m > 0) rest<R, MR / 2, NV>(m, k, a, b, ldb, c, ldc, start, rows);
  }
}

template <class R, int NV>
void columns(int m, int k, Strided<R> a, const R* b, ptrdiff_t ldb, R* c, ptrdiff_t ldc, Start start, const R* rows) {
  constexpr int MR = block_rows<NV>;
  for (; m >= MR; m -= MR) {
    // With a constant stride the compiler keeps one pointer instead of one per row.
    if (a.row == 1)
      block<R, MR, NV>(k, {a.data, 1, a.col}, b, ldb, c, ldc, start, rows);
    else
      block<R, MR, NV>(k, {a.data, a.row, 1}, b, ldb, c, ldc, start, rows);
    a.data += MR * a.row;
    c += MR * ldc;
    rows = rows ? rows + MR : rows;
  }
  if (m > 0) rest<R, (MR > 8 ? 8 : MR > 4 ? 4 : 2), NV>(m, k, a, b, ldb, c, ldc, start, rows);
}

}  // namespace detail

/// C (m, n) from A (m, k) and B (k, n); n is a multiple of the vector width, and A is contiguous in one direction.
template <class R>
void gemm(int m, int n, int k, Strided<R> a, const R* b, ptrdiff_t ldb, R* c, ptrdiff_t ldc, Start start = Start::zero,
          const R* rows = nullptr) {
#ifdef __AVX512BF16__
  if constexpr (std::is_same_v<R, float>)
    if (Bfloat16Products::on() && m >= 16 && k >= 16)
      return detail::bfloat16_gemm(m, n, k, a.data, a.row, a.col, a.packed, b, ldb, c, ldc, start == Start::add, rows);
#endif
  constexpr int W = Lanes<R>::W;
  for (int v = n / W; v > 0;) {
    const int take = v >= 3 && v != 4 ? 3 : v >= 2 ? 2 : 1;
    if (take == 3)
      detail::columns<R, 3>(m, k, a, b, ldb, c, ldc, start, rows);
    else if (take == 2)
      detail::columns<R, 2>(m, k, a, b, ldb, c, ldc, start, rows);
    else
      detail::columns<R, 1>(m, k, a, b, ldb, c, ldc, start, rows);
    b += take * W;
    c += take * W;
    v -= take;
  }
}

namespace detail {

/// Lanes of a and b whose bit S of the lane number is 0 (low) or 1 (high), put where they belong in the transpose.
template <class R, int S, bool HIGH, size_t... L>
inline Vec<R> exchange(Vec<R> a, Vec<R> b, std::index_sequence<L...>) {
  constexpr int W = Lanes<R>::W;
#ifdef __clang__
  return __builtin_shufflevector(a, b, (HIGH ? (int(L) & S ? W + int(L) : int(L) + S) : (int(L) & S ? W + int(L) - S : int(L)))...);
#else
  using I = typename Lanes<R>::I;
  return __builtin_shuffle(
      a, b, I{(HIGH ? (int(L) & S ? W + int(L) : int(L) + S) : (int(L) & S ? W + int(L) - S : int(L)))...});
#endif
}

/// Transposes W vectors of W lanes in place: blocks of S change sides, for S = W/2 … 1.
template <class R, int S = Lanes<R>::W / 2>
inline void turn(Vec<R>* v) {
  if constexpr (S >= 1) {
    constexpr int W = Lanes<R>::W;
    using All = std::make_index_sequence<size_t(W)>;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & S)) {
        const Vec<R> a = v[i], b = v[i + S];
        v[i] = exchange<R, S, false>(a, b, All());
        v[i + S] = exchange<R, S, true>(a, b, All());
      }
    turn<R, S / 2>(v);
  }
}

}  // namespace detail

/// out (n, ld) = the transpose of in (n, ld), of which n x n elements exist; columns n.. of out become zero. Rows are
/// whole vectors.
template <class R>
void transpose(int n, const R* in, R* out, ptrdiff_t ld) {
  constexpr int W = Lanes<R>::W;
  for (int j0 = 0; j0 < n; j0 += W) {
    const int rows = n - j0 < W ? n - j0 : W;
    for (int i0 = 0; i0 < n; i0 += W) {
      Vec<R> v[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) v[l] = i0 + l < n ? load(in + (i0 + l) * ld + j0) : Vec<R>{};
      detail::turn<R>(v);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l)
        if (l < rows) store(out + (j0 + l) * ld + i0, v[l]);
    }
  }
}

}  // namespace dpa1
