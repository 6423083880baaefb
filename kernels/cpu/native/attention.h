// One layer of gated attention around one atom, with its gradient. Formula: reference.gated_attention_layer.
//
// Matrices are merged before they meet a neighbour (kernels/README.md derives them). With ĝ = [g, 1] and Ŵ = [W; b]:
//
// - q enters only through q·k and |q|: Ŵ_q = L Q (LQ decomposition) turns q into ĝ L of width min(attn, M + 1), and k
//   into k Qᵀ, whose first columns are scored and whose others are only measured.
// - v enters only through v W_out, which is one matrix, and |v|² = ĝ P ĝᵀ, P = Ŵ_v Ŵ_vᵀ. Of this quadratic form the
//   gradient is 2 ĝ P, which the forward has already: no product is needed in the backward.
//
// A *reduced* layer sees g through r coordinates that span all that the embedding can produce for the types at hand:
// keys and values are the coordinates φ̂ themselves, q·k = φ̂ (Ŵ_q Ŵ_kᵀ) φ̂ᵀ, and all three lengths are quadratic forms.
//
// Channels are rows and neighbours are columns, so that lanes are neighbours everywhere. ``g`` carries the output bias
// b_out of the layer (it was added before), so that no pass is spent on it.
#pragma once

#include <type_traits>
#include <vector>

#include "scores.h"

namespace dpa1 {

/// Calls f with vectors of columns, up to four at a time: sums down the channels are chains, of which several run at once.
template <class R, class F>
inline void by_columns(int N, F f) {
  constexpr int W = Lanes<R>::W;
  for (int i = 0; i < N;) {
    const int left = (N - i) / W;
    if (left >= 4)
      f(std::integral_constant<int, 4>(), i), i += 4 * W;
    else if (left == 3)
      f(std::integral_constant<int, 3>(), i), i += 3 * W;
    else if (left == 2)
      f(std::integral_constant<int, 2>(), i), i += 2 * W;
    else
      f(std::integral_constant<int, 1>(), i), i += W;
  }
}

template <class R>
struct Norm {
  std::vector<R> gamma, beta;  // beta carries b_out of the next layer
  R eps;

  /// x (m, N) becomes its normalised self, kept for the backward; ``out`` receives γ x̂ + β.
  void forward(R* x, R* out, R* rstd, int N) const {
    constexpr int W = Lanes<R>::W;
    const int m = int(gamma.size());
    by_columns<R>(N, [&](auto vectors, int i) {
      constexpr int U = decltype(vectors)::value;
      Vec<R> mean[U] = {}, scale[U] = {};
      for (int c = 0; c < m; ++c)
        for (int u = 0; u < U; ++u) mean[u] += load(x + size_t(c) * N + i + u * W);
      for (int u = 0; u < U; ++u) mean[u] /= R(m);
      for (int c = 0; c < m; ++c)
        for (int u = 0; u < U; ++u) {
          const Vec<R> v = load(x + size_t(c) * N + i + u * W) - mean[u];
          scale[u] += v * v;
        }
      for (int u = 0; u < U; ++u) {
        scale[u] = R(1) / root<R>(scale[u] / R(m) + eps);
        store(rstd + i + u * W, scale[u]);
      }
      for (int c = 0; c < m; ++c)
        for (int u = 0; u < U; ++u) {
          const size_t at = size_t(c) * N + i + u * W;
          const Vec<R> v = (load(x + at) - mean[u]) * scale[u];
          store(x + at, v);
          store(out + at, v * gamma[c] + beta[c]);
        }
    });
  }

  /// dE/d(output) (m, N) becomes dE/d(input): (γ g − mean(γ g) − x̂ mean(γ g x̂)) / std.
  void backward(R* g, const R* x, const R* rstd, int N) const {
    constexpr int W = Lanes<R>::W;
    const int m = int(gamma.size());
    by_columns<R>(N, [&](auto vectors, int i) {
      constexpr int U = decltype(vectors)::value;
      Vec<R> mean[U] = {}, along[U] = {};
      for (int c = 0; c < m; ++c)
        for (int u = 0; u < U; ++u) {
          const size_t at = size_t(c) * N + i + u * W;
          const Vec<R> v = load(g + at) * gamma[c];
          mean[u] += v;
          along[u] += v * load(x + at);
        }
      for (int u = 0; u < U; ++u) mean[u] /= R(m), along[u] /= R(m);
      for (int c = 0; c < m; ++c)
        for (int u = 0; u < U; ++u) {
          const size_t at = size_t(c) * N + i + u * W;
          const Vec<R> v = load(g + at) * gamma[c] - mean[u] - load(x + at) * along[u];
          store(g + at, v * load(rstd + i + u * W));
        }
    });
  }
};

/// Σ_c a_c b_c of each column, (m, N) each, into ``out`` (N).
template <class R>
void dots(int m, int N, const R* a, const R* b, R* out) {
  constexpr int W = Lanes<R>::W;
  by_columns<R>(N, [&](auto vectors, int i) {
    constexpr int U = decltype(vectors)::value;
    Vec<R> s[U] = {};
    for (int c = 0; c < m; ++c)
      for (int u = 0; u < U; ++u) s[u] += load(a + size_t(c) * N + i + u * W) * load(b + size_t(c) * N + i + u * W);
    for (int u = 0; u < U; ++u) store(out + i + u * W, s[u]);
  });
}

/// one + Σ_c h_c g_c + Σ_c g_c p_c of each column: the quadratic form of ĝ = [g, 1] with h = ĝ P.
template <class R>
void quadratic(int m, int N, const R* h, const R* g, const R* p, R one, R* out) {
  constexpr int W = Lanes<R>::W;
  by_columns<R>(N, [&](auto vectors, int i) {
    constexpr int U = decltype(vectors)::value;
    Vec<R> s[U];
    for (int u = 0; u < U; ++u) s[u] = splat(one);
    for (int c = 0; c < m; ++c)
      for (int u = 0; u < U; ++u) s[u] += load(h + size_t(c) * N + i + u * W) * load(g + size_t(c) * N + i + u * W);
    for (int c = 0; c < m; ++c)
      for (int u = 0; u < U; ++u) s[u] += load(g + size_t(c) * N + i + u * W) * p[c];
    for (int u = 0; u < U; ++u) store(out + i + u * W, s[u]);
  });
}

/// y += f x, column by column: (m, N) each, f (N).
template <class R>
void add_scaled(int m, int N, const R* f, const R* x, R* y) {
  constexpr int W = Lanes<R>::W;
  for (int c = 0; c < m; ++c)
    for (int i = 0; i < N; i += W)
      store(y + size_t(c) * N + i, load(y + size_t(c) * N + i) + load(f + i) * load(x + size_t(c) * N + i));
}

/// The square roots of n squares, never below NORM_EPS.
template <class R>
void lengths_of(R* square, int n) {
  for (int i = 0; i < n; ++i) {
    const R s = square[i];
    square[i] = s == s ? std::max(std::sqrt(std::max(s, R(0))), R(NORM_EPS)) : s;
  }
}

/// What the backward of one layer needs.
template <class R>
struct LayerState {
  R *parts, *normed, *rstd;
  Scores<R> scores;
};

/// A layer that sees all M channels.
template <class R>
struct FullLayer {
  int m = 0, depth = 0, rest = 0;  // channels, width of q and scored k, width of the k that is only measured
  bool normalize = true;
  R scale = 1;
  Weights<R> weight;          // (m, rows()): q, k, k_rest, v, h, where h = ĝ P
  std::vector<R> bias, p_row;  // (rows()), (m)
  R p_one = 0;
  Norm<R> norm;

  /// Rows of what is projected, and of it what has a gradient to bring back (all but h).
  int rows() const { return kept() + (normalize ? m : 0); }
  int kept() const { return 2 * depth + rest + m; }

  /// g (m, N) to LayerNorm(g + (w v) W_out) in place.
  LayerState<R> forward(R* g, const Gate<R>& gate, Arena& keep, Arena& scratch) const {
    const int n = gate.n, N = gate.width;
    LayerState<R> s;
    s.parts = keep.take<R>(size_t(rows()) * N);
    project(g, N, s.parts);
    const R *q = s.parts, *k = q + size_t(depth) * N, *k_rest = k + size_t(depth) * N;
    const R *v = k_rest + size_t(rest) * N, *h = v + size_t(m) * N;
    Lengths<R> length;
    if (normalize) {
      length = {keep.take<R>(N), keep.take<R>(N), keep.take<R>(N)};
      dots(depth, N, q, q, length.q);
      dots(depth + rest, N, k, k, length.k);
      quadratic(m, N, h, g, p_row.data(), p_one, length.v);
      for (R* l : {length.q, length.k, length.v}) lengths_of(l, n);
    }
    const auto mark = scratch.mark();
    R* w = scratch.take<R>(size_t(n) * N);
    s.scores = scores<R>(q, k, depth, length, gate, scale, w, keep);
    s.normed = keep.take<R>(size_t(m) * N), s.rstd = keep.take<R>(N);
    std::memcpy(s.normed, g, size_t(m) * N * sizeof(R));
    gemm<R>(m, N, n, {v, N, 1}, w, N, s.normed, N, Start::add);
    norm.forward(s.normed, g, s.rstd, N);
    scratch.release(mark);
    return s;
  }

  /// dE/d(output) (m, N) becomes dE/dg.
  void backward(R* dg, const LayerState<R>& s, Gate<R>& gate, Arena& scratch) const {
    const int n = gate.n, N = gate.width;
    const R *q = s.parts, *k = q + size_t(depth) * N, *k_rest = k + size_t(depth) * N;
    const R *v = k_rest + size_t(rest) * N, *h = v + size_t(m) * N;
    norm.backward(dg, s.normed, s.rstd, N);
    const auto mark = scratch.mark();
    R* dw = scratch.take<R>(size_t(n) * N);
    gemm<R>(n, N, m, {v, 1, N}, dg, N, dw, N);
    const ScoreGradient<R> r = scores_backward(dw, s.scores, gate, scratch);
    R* d = scratch.take<R>(size_t(kept()) * N);
    R *dq = d, *dk = dq + size_t(depth) * N, *dk_rest = dk + size_t(depth) * N, *dv = dk_rest + size_t(rest) * N;
    gemm<R>(depth, N, n, {k, N, 1}, r.logits, N, dq, N);
    gemm<R>(depth, N, n, {q, N, 1}, r.turned, N, dk, N);
    gemm<R>(m, N, n, {dg, N, 1}, r.w_turned, N, dv, N);
    if (normalize) {
      add_scaled(depth, N, r.c_q, q, dq);
      add_scaled(depth, N, r.c_k, k, dk);
      std::fill(dk_rest, dk_rest + size_t(rest) * N, R(0));
      add_scaled(rest, N, r.c_k, k_rest, dk_rest);
      add_scaled(m, N, r.c_v, h, dg);
    }
    bring_back(d, N, dg);
    scratch.release(mark);
  }

 private:
  static constexpr int STRIP = 8;

  /// Whether zeros may be left out: not where operands of bfloat16 were packed as a whole.
  bool strips() const { return weight.turned.data.empty(); }

  /// parts = ĝ Ŵ. Channel c of q needs no channel of g before depth − 1 − c: these weights are zero.
  void project(const R* g, int N, R* parts) const {
    int c = 0;
    for (int size; strips() && c < depth; c += size) {
      size = std::min(STRIP, depth - c);
      const int from = std::min(m, depth - c - size);
      const Strided<R> w{weight.data.data() + c + size_t(from) * weight.m, 1, weight.m};
      gemm<R>(size, N, m - from, w, g + size_t(from) * N, N, parts + size_t(c) * N, N, Start::zero, bias.data() + c);
    }
    Strided<R> w = weight.transposed();
    w.data += c;
    gemm<R>(rows() - c, N, m, w, g, N, parts + size_t(c) * N, N, Start::zero, bias.data() + c);
  }

  /// dg += Ŵ d, without the same zeros.
  void bring_back(const R* d, int N, R* dg) const {
    if (!strips()) return gemm<R>(m, N, kept(), weight.straight(), d, N, dg, N, Start::add);
    for (int i = 0, size; i < m; i += size) {
      size = std::min(STRIP, m - i);
      const int from = std::max(0, depth - i - size);
      const Strided<R> w{weight.data.data() + size_t(i) * weight.m + from, weight.m, 1};
      gemm<R>(size, N, kept() - from, w, d + size_t(from) * N, N, dg + size_t(i) * N, N, Start::add);
    }
  }
};

/// A layer whose input is ĝ = basis·φ̂ with r coordinates φ̂, the last of which is 1.
template <class R>
struct ReducedLayer {
  int m = 0, r = 0;
  bool normalize = true;
  R scale = 1;
  Weights<R> a;    // (r, rows()): q = φ̂ A, then φ̂ P of q, k and v
  Weights<R> w_y;  // (r, m)
  Norm<R> norm;

  int rows() const { return r * (normalize ? 4 : 1); }

  LayerState<R> forward(const R* phi, R* g, const Gate<R>& gate, Arena& keep, Arena& scratch) const {
    const int n = gate.n, N = gate.width, total = rows();
    LayerState<R> s;
    s.parts = keep.take<R>(size_t(total) * N);
    gemm<R>(total, N, r, a.transposed(), phi, N, s.parts, N);
    Lengths<R> length;
    if (normalize) {
      length = {keep.take<R>(N), keep.take<R>(N), keep.take<R>(N)};
      const R* h = s.parts + size_t(r) * N;
      for (R* l : {length.q, length.k, length.v}) {
        dots(r, N, h, phi, l);
        lengths_of(l, n);
        h += size_t(r) * N;
      }
    }
    const auto mark = scratch.mark();
    R *w = scratch.take<R>(size_t(n) * N), *y = scratch.take<R>(size_t(r) * N);
    s.scores = scores<R>(s.parts, phi, r, length, gate, scale, w, keep);
    s.normed = keep.take<R>(size_t(m) * N), s.rstd = keep.take<R>(N);
    std::memcpy(s.normed, g, size_t(m) * N * sizeof(R));
    gemm<R>(r, N, n, {phi, N, 1}, w, N, y, N);
    gemm<R>(m, N, r, w_y.transposed(), y, N, s.normed, N, Start::add);
    norm.forward(s.normed, g, s.rstd, N);
    scratch.release(mark);
    return s;
  }

  /// dE/d(output) (m, N) becomes dE/dg; dE/dφ̂ (r, N) goes to ``dphi``.
  void backward(R* dg, R* dphi, const R* phi, const LayerState<R>& s, Gate<R>& gate, Arena& scratch) const {
    const int n = gate.n, N = gate.width;
    norm.backward(dg, s.normed, s.rstd, N);
    const auto mark = scratch.mark();
    R *dy = scratch.take<R>(size_t(r) * N), *dw = scratch.take<R>(size_t(n) * N), *dq = scratch.take<R>(size_t(r) * N);
    gemm<R>(r, N, m, w_y.straight(), dg, N, dy, N);
    gemm<R>(n, N, r, {phi, 1, N}, dy, N, dw, N);
    const ScoreGradient<R> grad = scores_backward(dw, s.scores, gate, scratch);
    gemm<R>(r, N, n, {dy, N, 1}, grad.w_turned, N, dphi, N);
    gemm<R>(r, N, n, {s.parts, N, 1}, grad.turned, N, dphi, N, Start::add);
    gemm<R>(r, N, n, {phi, N, 1}, grad.logits, N, dq, N);
    gemm<R>(r, N, r, a.straight(), dq, N, dphi, N, Start::add);
    if (normalize) {
      const R* h = s.parts + size_t(r) * N;
      for (const R* c : {grad.c_q, grad.c_k, grad.c_v}) {
        add_scaled(r, N, c, h, dphi);
        h += size_t(r) * N;
      }
    }
    scratch.release(mark);
  }
};

}  // namespace dpa1
