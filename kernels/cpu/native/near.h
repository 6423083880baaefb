// Which of the points in a stretch of a grid lie near a place, and putting their numbers in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#ifdef __AVX512VL__
#include <immintrin.h>
#endif

namespace dpa1 {

/// ``near_points`` may write so many numbers more than it counts.
constexpr size_t NEAR_ROOM = 8;

/// Writes id[k] of the points begin ≤ k < end closer to r than √most to ``to``, without that which is ``self``; how many.
inline size_t near_points(const std::vector<double>* axes, const int32_t* id, size_t begin, size_t end, const double* r,
                          double most, int32_t self, int32_t* to) {
  const double *x = axes[0].data(), *y = axes[1].data(), *z = axes[2].data();
  size_t n = 0;
#ifdef __AVX512VL__
  const auto away = [](__mmask8 valid, const double* at, double from) {
    return _mm512_sub_pd(_mm512_maskz_loadu_pd(valid, at), _mm512_set1_pd(from));
  };
  for (size_t k = begin; k < end; k += 8) {
    const __mmask8 valid = __mmask8(end - k < 8 ? (1u << (end - k)) - 1 : 255u);
    const __m512d dx = away(valid, x + k, r[0]), dy = away(valid, y + k, r[1]), dz = away(valid, z + k, r[2]);
    const __m512d square = _mm512_fmadd_pd(dz, dz, _mm512_fmadd_pd(dy, dy, _mm512_mul_pd(dx, dx)));
    const __m256i ids = _mm256_maskz_loadu_epi32(valid, id + k);
    const __mmask8 other = _mm256_mask_cmpneq_epi32_mask(valid, ids, _mm256_set1_epi32(self));
    const __mmask8 near = _mm512_mask_cmp_pd_mask(other, square, _mm512_set1_pd(most), _CMP_LT_OQ);
    // Compressed in a register: into memory it is slow on some processors.
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + n), _mm256_maskz_compress_epi32(near, ids));
    n += size_t(__builtin_popcount(near));
  }
#else
  for (size_t k = begin; k < end; ++k) {
    const double dx = x[k] - r[0], dy = y[k] - r[1], dz = z[k] - r[2];
    // Written in any case, and kept where it is near: half of the branches would be guessed wrongly.
    to[n] = id[k];
    n += size_t((dx * dx + dy * dy + dz * dz < most) & (id[k] != self));
  }
#endif
  return n;
}

/// Some of the numbers from 0 to n, put in in any order and taken out in theirs: a tree of words of 64 bits. For the hundred
/// neighbours of an atom that is three times as fast as sorting them.
class Ascending {
 public:
  void resize(size_t n) {
    for (std::vector<uint64_t>& level : level_) level.resize(n = n / 64 + 1);
  }

  void put(int32_t x) {
    uint32_t at = uint32_t(x);
    for (std::vector<uint64_t>& level : level_) level[at >> 6] |= uint64_t(1) << (at & 63), at >>= 6;
  }

  /// Takes all of them out, into ``to``.
  void take(int32_t* to) {
    for (size_t k = 0; k < level_[2].size(); ++k)
      drain(level_[2], k, [&](size_t b) {
        drain(level_[1], b, [&](size_t a) { drain(level_[0], a, [&](size_t x) { *to++ = int32_t(x); }); });
      });
  }

 private:
  template <class Visit>
  static void drain(std::vector<uint64_t>& level, size_t at, Visit visit) {
    for (uint64_t bits = std::exchange(level[at], 0); bits; bits &= bits - 1) visit(64 * at + size_t(__builtin_ctzll(bits)));
  }

  std::vector<uint64_t> level_[3];  // a bit of one stands for a word of the level before
};

}  // namespace dpa1
