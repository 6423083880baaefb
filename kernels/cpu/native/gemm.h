// C = A B on small matrices that live in the cache.
//
// A is any strided matrix of scalars, B and C are row-major with rows of whole vectors. Every element of C is one chain
// of multiply-adds in the order of k, whatever the blocking: results do not depend on who shares a matrix with whom.
#pragma once

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

/// out (n, ld_out) = the transpose of in (m, ld_in), where only m x n elements exist; columns m.. of out become zero.
template <class R>
void transpose(int m, int n, const R* in, ptrdiff_t ld_in, R* out, ptrdiff_t ld_out) {
  constexpr int T = 8;
  for (int i = 0; i < n; ++i)
    for (ptrdiff_t j = m; j < ld_out; ++j) out[i * ld_out + j] = 0;
  for (int i0 = 0; i0 < m; i0 += T)
    for (int j0 = 0; j0 < n; j0 += T) {
      const int i1 = i0 + T < m ? i0 + T : m, j1 = j0 + T < n ? j0 + T : n;
      for (int j = j0; j < j1; ++j)
        for (int i = i0; i < i1; ++i) out[j * ld_out + i] = in[i * ld_in + j];
    }
}

}  // namespace dpa1
