// Products of bfloat16 operands with float32 accumulation, where the processor has them (AVX512-BF16).
//
// Matrices stay float32; a product packs its operands as it meets them. Two numbers that follow each other along k share
// 32 bits, as the instruction wants them: A2 (m, k/2) is broadcast, B2 (k/2, n) is loaded. An odd k is filled with zero.
#pragma once

#include <vector>

#include "vec.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace dpa1 {

/// Whether this thread's float32 products take bfloat16 operands; a worker says so for its model.
struct Bfloat16Products {
  static bool available() {
#ifdef __AVX512BF16__
    return true;
#else
    return false;
#endif
  }
  static bool& on() {
    static thread_local bool flag = false;
    return flag;
  }
};

/// A matrix of weights as products with bfloat16 operands read it; empty where they are not wanted.
struct Packed {
  std::vector<uint32_t> data;
  ptrdiff_t ld = 0;
};

/// Products in full float32 while it lives: for sums that cancel.
class Exact {
 public:
  explicit Exact(bool wanted = true) : was_(Bfloat16Products::on()) { Bfloat16Products::on() = was_ && !wanted; }
  ~Exact() { Bfloat16Products::on() = was_; }
  Exact(const Exact&) = delete;

 private:
  bool was_;
};

#ifdef __AVX512BF16__
namespace detail {

inline __m512i pairs(__m512 low, __m512 high) {
  // cvtne2ps puts the halves one after the other; the permutation interleaves them.
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/// out (k2, ld_out): pairs of rows of in (k, width), column by column.
inline void pack_rows(int k, int width, const float* in, ptrdiff_t ld, uint32_t* out, ptrdiff_t ld_out) {
  for (int p = 0; p < k; p += 2, in += 2 * ld, out += ld_out)
    for (int i = 0; i < width; i += 16) {
      const __mmask16 mask = width - i >= 16 ? 0xffff : (1u << (width - i)) - 1;
      const __m512 low = _mm512_maskz_loadu_ps(mask, in + i);
      const __m512 high = p + 1 < k ? _mm512_maskz_loadu_ps(mask, in + ld + i) : _mm512_setzero_ps();
      _mm512_storeu_si512(out + i, pairs(low, high));
    }
}

/// out (m, ld_out): each row of in (m, k) with its neighbours paired; k2 <= ld_out, a multiple of 8.
inline void pack_columns(int m, int k, const float* in, ptrdiff_t ld, uint32_t* out, ptrdiff_t ld_out) {
  for (int i = 0; i < m; ++i, in += ld, out += ld_out)
    for (int p = 0; p < k; p += 16) {
      const __mmask16 mask = k - p >= 16 ? 0xffff : (1u << (k - p)) - 1;
      _mm256_storeu_si256((__m256i*)(out + p / 2), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, in + p)));
    }
}

template <int MR, int NV>
inline void bfloat16_block(int k2, const uint32_t* a, ptrdiff_t row, ptrdiff_t col, const uint32_t* b, ptrdiff_t ldb,
                           float* c, ptrdiff_t ldc, bool add, const float* rows) {
  __m512 sum[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      sum[r][v] = add ? _mm512_loadu_ps(c + r * ldc + 16 * v) : rows ? _mm512_set1_ps(rows[r]) : _mm512_setzero_ps();
  for (int p = 0; p < k2; ++p, a += col, b += ldb) {
    __m512i y[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) y[v] = _mm512_loadu_si512(b + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const __m512i s = _mm512_set1_epi32(int(a[r * row]));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)s, (__m512bh)y[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
}

template <int MR, int NV>
inline void bfloat16_rows(int m, int k2, const uint32_t* a, ptrdiff_t row, ptrdiff_t col, const uint32_t* b,
                          ptrdiff_t ldb, float* c, ptrdiff_t ldc, bool add, const float* rows) {
  if constexpr (MR >= 1) {
    for (; m >= MR; m -= MR) {
      if (row == 1)
        bfloat16_block<MR, NV>(k2, a, 1, col, b, ldb, c, ldc, add, rows);
      else
        bfloat16_block<MR, NV>(k2, a, row, 1, b, ldb, c, ldc, add, rows);
      a += MR * row;
      c += MR * ldc;
      rows = rows ? rows + MR : rows;
    }
    if (m > 0) bfloat16_rows<MR / 2, NV>(m, k2, a, row, col, b, ldb, c, ldc, add, rows);
  }
}

/// As gemm, with operands rounded to bfloat16; ``packed`` is A already packed, or null.
inline void bfloat16_gemm(int m, int n, int k, const float* a, ptrdiff_t row, ptrdiff_t col, const Packed* packed,
                          const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc, bool add, const float* rows) {
  static thread_local std::vector<uint32_t> a2, b2;
  const int k2 = (k + 1) / 2;
  const uint32_t* x;
  ptrdiff_t ld;
  if (packed && !packed->data.empty()) {
    x = packed->data.data(), ld = packed->ld;
  } else {
    ld = row == 1 ? (m + 15) / 16 * 16 : (k + 15) / 16 * 8;
    const size_t need = size_t(row == 1 ? k2 : m) * ld;
    if (a2.size() < need) a2.resize(need);
    if (row == 1)
      pack_rows(k, m, a, col, a2.data(), ld);
    else
      pack_columns(m, k, a, row, a2.data(), ld);
    x = a2.data();
  }
  if (b2.size() < size_t(k2) * n) b2.resize(size_t(k2) * n);
  pack_rows(k, n, b, ldb, b2.data(), n);
  const ptrdiff_t r = row == 1 ? 1 : ld, s = row == 1 ? ld : 1;
  for (int v = n / 16, at = 0; v > 0;) {
    const int take = v >= 3 && v != 4 ? 3 : v >= 2 ? 2 : 1;
    const uint32_t* y = b2.data() + at;
    if (take == 3)
      bfloat16_rows<8, 3>(m, k2, x, r, s, y, n, c + at, ldc, add, rows);
    else if (take == 2)
      bfloat16_rows<8, 2>(m, k2, x, r, s, y, n, c + at, ldc, add, rows);
    else
      bfloat16_rows<16, 1>(m, k2, x, r, s, y, n, c + at, ldc, add, rows);
    at += 16 * take;
    v -= take;
  }
}

}  // namespace detail
#endif

/// Weights (k, m) as the left factor of Wᵀ·B.
inline Packed pack_transposed(int k, int m, const float* w) {
  Packed out;
  (void)k, (void)m, (void)w;
#ifdef __AVX512BF16__
  out.ld = (m + 15) / 16 * 16;
  out.data.resize(size_t(k + 1) / 2 * out.ld);
  detail::pack_rows(k, m, w, m, out.data.data(), out.ld);
#endif
  return out;
}

/// The first ``kept`` columns of weights (m, width) as the left factor of W·B.
inline Packed pack_straight(int m, int width, int kept, const float* w) {
  Packed out;
  (void)m, (void)width, (void)kept, (void)w;
#ifdef __AVX512BF16__
  out.ld = (kept + 15) / 16 * 8;
  out.data.resize(size_t(m) * out.ld);
  detail::pack_columns(m, kept, w, width, out.data.data(), out.ld);
#endif
  return out;
}

}  // namespace dpa1
