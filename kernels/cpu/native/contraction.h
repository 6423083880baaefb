// The descriptor D from the moments X of B atoms, atoms as columns, and back. Formula: reference.contraction.
//
// Two forms. In all channels, X (4, M, B): D_ka = Σ_c X_ck X_ca for a < A, (M·A, B). In coordinates Y (4, r, B), of which
// the first A' = min(A, r) span the first A channels: S_pq = Σ_c Y_cp Y_cq for q < A' and q ≤ p, as symmetric as it is
// (kernels/prepare/merging.py, ``head``).
#pragma once

#include "vec.h"

namespace dpa1 {

template <class R>
struct Contraction {
  int m, axis, B;

  int rows() const { return m * axis; }

  void forward(const R* x, R* out) const {
    for (int k = 0; k < m; ++k)
      for (int i = 0; i < B; i += W) {
        const Vec<R> own[4] = {at(x, 0, k, i), at(x, 1, k, i), at(x, 2, k, i), at(x, 3, k, i)};
        for (int a = 0; a < axis; ++a) {
          Vec<R> s = {};
          for (int c = 0; c < 4; ++c) s += own[c] * at(x, c, a, i);
          store(out + size_t(k * axis + a) * B + i, s);
        }
      }
  }

  /// dX_ck = Σ_a gD_ka X_ca, and dX_ca += Σ_k gD_ka X_ck for a < A.
  void backward(const R* x, const R* gd, R* dx) const {
    for (int i = 0; i < B; i += W) {
      const auto gradient = [&](int k, int a) { return load(gd + size_t(k * axis + a) * B + i); };
      for (int k = 0; k < m; ++k) {
        Vec<R> s[4] = {};
        for (int a = 0; a < axis; ++a) {
          const Vec<R> g = gradient(k, a);
          for (int c = 0; c < 4; ++c) s[c] += g * at(x, c, a, i);
        }
        for (int c = 0; c < 4; ++c) store(dx + (size_t(c) * m + k) * B + i, s[c]);
      }
      for (int a = 0; a < axis; ++a) {
        Vec<R> s[4] = {};
        for (int k = 0; k < m; ++k) {
          const Vec<R> g = gradient(k, a);
          for (int c = 0; c < 4; ++c) s[c] += g * at(x, c, k, i);
        }
        for (int c = 0; c < 4; ++c) {
          R* p = dx + (size_t(c) * m + a) * B + i;
          store(p, load(p) + s[c]);
        }
      }
    }
  }

 private:
  static constexpr int W = Lanes<R>::W;
  Vec<R> at(const R* x, int c, int k, int i) const { return load(x + (size_t(c) * m + k) * B + i); }
};

template <class R>
struct SymmetricContraction {
  int r, axis, B;  // axis: A'

  int rows() const { return first(r); }

  void forward(const R* y, R* out) const {
    for (int p = 0; p < r; ++p)
      for (int i = 0; i < B; i += W) {
        const Vec<R> own[4] = {at(y, 0, p, i), at(y, 1, p, i), at(y, 2, p, i), at(y, 3, p, i)};
        R* to = out + size_t(first(p)) * B + i;
        for (int q = 0; q <= p && q < axis; ++q, to += B) {
          Vec<R> s = {};
          for (int c = 0; c < 4; ++c) s += own[c] * at(y, c, q, i);
          store(to, s);
        }
      }
  }

  /// dY_cp = Σ_(q ≤ p) gS_pq Y_cq + Σ_(p' ≥ p) gS_p'p Y_cp', the second for p < A'.
  void backward(const R* y, const R* gs, R* dy) const {
    for (int i = 0; i < B; i += W)
      for (int p = 0; p < r; ++p) {
        Vec<R> s[4] = {};
        const auto add = [&](int row, int column, int other) {
          const Vec<R> g = load(gs + size_t(first(row) + column) * B + i);
          for (int c = 0; c < 4; ++c) s[c] += g * at(y, c, other, i);
        };
        for (int q = 0; q <= p && q < axis; ++q) add(p, q, q);
        if (p < axis)
          for (int other = p; other < r; ++other) add(other, p, other);
        for (int c = 0; c < 4; ++c) store(dy + (size_t(c) * r + p) * B + i, s[c]);
      }
  }

 private:
  static constexpr int W = Lanes<R>::W;
  Vec<R> at(const R* y, int c, int p, int i) const { return load(y + (size_t(c) * r + p) * B + i); }
  /// Where row p of S begins.
  int first(int p) const { return p <= axis ? p * (p + 1) / 2 : axis * (axis + 1) / 2 + (p - axis) * axis; }
};

}  // namespace dpa1
