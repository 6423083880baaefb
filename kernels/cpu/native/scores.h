// The attention weights of one layer around one atom, and their gradient.
// Formulas: reference.attention_weights and the gate of reference.gated_attention_layer.
//
// One form serves all options. With a_q = scale·sw_q/|q|, a_k = sw_k/|k| (sw = 1 for the hard softmax, lengths = 1
// without normalize), x = (q·k) a_q a_k + 20 sw_q sw_k and n_empty as in the reference,
//
//     w = e^x / (Σ_real e^x + n_empty) · (u_q·u_k)/|v_k|,   u = r̂·sw, or sw alone without attn_dotr.
//
// The length of v stands here, so that v itself is never divided; what scales rows and columns is folded into a_q, a_k.
// Matrices have one row per key and one column per query: sums over keys are sums of whole rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "arena.h"
#include "environment.h"
#include "gemm.h"

namespace dpa1 {

constexpr double ATTENTION_SHIFT = 20.0;

/// The largest |logit| whose exponential is taken as it is: e^±60 and sums of them are normal numbers in float32 too.
constexpr double SAFE_LOGIT = 60.0;

/// What all layers around one atom share. n neighbours in ``width`` columns, zero beyond n.
template <class R>
struct Gate {
  int n, width, components;  // components of u: 3, or 1
  R* u[3];
  R* sw;  // smooth attention only, else null
  R n_empty;

  // dE/d(each of these), added to by every layer's backward.
  R *g_u[3], *g_sw;
};

/// |q|, |k| and |v| of every neighbour, never zero; null without normalize.
template <class R>
struct Lengths {
  R *q = nullptr, *k = nullptr, *v = nullptr;
};

template <class R>
struct Scores {
  R *x, *e;  // (n, width)
  R *a_q, *a_k, *z, *alpha[3], *beta[3];
  Lengths<R> length;
};

/// x, and from it e^x, its sum and the factors of the gate; ``w`` (n, width) receives the weights.
template <class R>
Scores<R> scores(const R* q, const R* k, int depth, Lengths<R> length, const Gate<R>& gate, R scale, R* w,
                 Arena& keep) {
  constexpr int W = Lanes<R>::W;
  const int n = gate.n, N = gate.width;
  Scores<R> s;
  s.length = length;
  s.x = keep.take<R>(size_t(n) * N), s.e = keep.take<R>(size_t(n) * N);
  s.a_q = keep.take<R>(N), s.a_k = keep.take<R>(N), s.z = keep.take<R>(N);
  for (int c = 0; c < gate.components; ++c) s.alpha[c] = keep.take<R>(N), s.beta[c] = keep.take<R>(N);
  gemm<R>(n, N, depth, {k, 1, N}, q, N, s.x, N);
  for (int i = 0; i < N; ++i) {
    const R sw = gate.sw ? gate.sw[i] : R(i < n);
    s.a_q[i] = i < n ? (length.q ? scale / length.q[i] : scale) * sw : R(0);
    s.a_k[i] = i < n ? (length.k ? sw / length.k[i] : sw) : R(0);
  }
  // |q| = |k| = 1 bounds x. Where nothing does, or not tightly enough, the largest of each query is taken off: at least
  // the 0 of an empty slot where there is one, and where there is none (exactly ``sel`` neighbours) however low it lies.
  const bool bounded = length.q && std::fabs(scale) + (gate.sw ? R(ATTENTION_SHIFT) : R(0)) <= R(SAFE_LOGIT);
  R* top = w;  // a row of scratch; the weights come later
  std::fill(top, top + N, bounded || gate.n_empty > R(0) || n == 0 ? R(0) : R(-INFINITY));
  for (int j = 0; j < n; ++j) {
    R* x = s.x + size_t(j) * N;
    const R a = s.a_k[j], shift = gate.sw ? R(ATTENTION_SHIFT) * gate.sw[j] : R(0);
    for (int i = 0; i < N; i += W) {
      Vec<R> v = load(x + i) * (load(s.a_q + i) * a);
      if (gate.sw) v += load(gate.sw + i) * shift;
      store(x + i, v);
      if (!bounded) store(top + i, larger<R>(load(top + i), v));
    }
  }
  std::fill(s.z, s.z + N, R(0));
  for (int j = 0; j < n; ++j) {
    const R* x = s.x + size_t(j) * N;
    R* e = s.e + size_t(j) * N;
    for (int i = 0; i < N; i += W) {
      const Vec<R> y = exp(load(x + i) - load(top + i));
      store(e + i, y);
      store(s.z + i, load(s.z + i) + y);
    }
  }
  if (gate.n_empty != R(0))
    for (int i = 0; i < N; i += W) store(s.z + i, load(s.z + i) + exp(-load(top + i)) * gate.n_empty);
  for (int i = 0; i < N; ++i) {
    if (!(s.z[i] > 0) && s.z[i] == s.z[i]) s.z[i] = 1;
    for (int c = 0; c < gate.components; ++c) {
      s.alpha[c][i] = gate.u[c][i] / s.z[i];
      s.beta[c][i] = length.v && i < n ? gate.u[c][i] / length.v[i] : gate.u[c][i];
    }
  }
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < N; i += W) {
      Vec<R> g = load(s.alpha[0] + i) * s.beta[0][j];
      for (int c = 1; c < gate.components; ++c) g += load(s.alpha[c] + i) * s.beta[c][j];
      store(w + size_t(j) * N + i, g * load(s.e + size_t(j) * N + i));
    }
  return s;
}

/// What comes back from the weights: dE/d(q·k), with keys as rows and, as ``turned``, with queries as rows; the weights
/// with queries as rows; and the factors with which q, k and v themselves enter their gradients through their lengths.
template <class R>
struct ScoreGradient {
  R *logits, *turned, *w_turned;
  R *c_q, *c_k, *c_v;
};

/// COUNT keys at a time: w = e G again, dE/dw·w in place of dE/dw, and what reaches α, β and each query's sum.
template <class R, int U, int COUNT>
inline void weigh(int j, R* dw, R* w, const Scores<R>& s, const Gate<R>& gate, R* const* d_alpha, R* const* d_beta,
                  R* total) {
  constexpr int W = Lanes<R>::W;
  const int N = gate.width;
  Vec<R> along[COUNT][U] = {};
  for (int i = 0; i < N; i += W) {
    Vec<R> alpha[U], da[U], sum = load(total + i);
    for (int c = 0; c < U; ++c) alpha[c] = load(s.alpha[c] + i), da[c] = load(d_alpha[c] + i);
#pragma GCC unroll 4
    for (int r = 0; r < COUNT; ++r) {
      const size_t at = size_t(j + r) * N + i;
      const Vec<R> e = load(s.e + at), d = load(dw + at), t = e * d;
      Vec<R> g = {};
      for (int c = 0; c < U; ++c) {
        const R beta = s.beta[c][j + r];
        g += alpha[c] * beta;
        along[r][c] += t * alpha[c];
        da[c] += t * beta;
      }
      const Vec<R> weight = e * g, p = d * weight;
      store(w + at, weight);
      store(dw + at, p);
      sum += p;
    }
    for (int c = 0; c < U; ++c) store(d_alpha[c] + i, da[c]);
    store(total + i, sum);
  }
  for (int r = 0; r < COUNT; ++r)
    for (int c = 0; c < U; ++c) d_beta[c][j + r] = dpa1::sum<R>(along[r][c]);
}

/// COUNT keys at a time: dx = dE/dw·w − e·total, its sums with x and with the switch over queries and over keys, and
/// dE/d(q·k) in its place.
template <class R, bool SMOOTH, int COUNT>
inline void divide(int j, R* dw, const Scores<R>& s, const Gate<R>& gate, const R* total, R* r_q, R* r_k, R* s_q,
                   R* s_k) {
  constexpr int W = Lanes<R>::W;
  const int N = gate.width;
  Vec<R> rk[COUNT] = {}, sk[COUNT] = {};
  for (int i = 0; i < N; i += W) {
    const Vec<R> t = load(total + i), a_q = load(s.a_q + i);
    Vec<R> rq = load(r_q + i), sq = SMOOTH ? load(s_q + i) : Vec<R>{}, sw = SMOOTH ? load(gate.sw + i) : Vec<R>{};
#pragma GCC unroll 4
    for (int r = 0; r < COUNT; ++r) {
      const size_t at = size_t(j + r) * N + i;
      const Vec<R> dx = load(dw + at) - load(s.e + at) * t, along = dx * load(s.x + at);
      rq += along, rk[r] += along;
      if (SMOOTH) sk[r] += dx * sw, sq += dx * gate.sw[j + r];
      store(dw + at, dx * (a_q * s.a_k[j + r]));
    }
    store(r_q + i, rq);
    if (SMOOTH) store(s_q + i, sq);
  }
  for (int r = 0; r < COUNT; ++r) r_k[j + r] = sum<R>(rk[r]), s_k[j + r] = sum<R>(sk[r]);
}

/// From dE/dw (n, width), overwritten. With G = (u_q·u_k)/(Z_q |v_k|) and w = e G:
/// dG = dw e, dx = dw w − e (Σ_k dw w)/Z.
template <class R>
ScoreGradient<R> scores_backward(R* dw, const Scores<R>& s, Gate<R>& gate, Arena& arena) {
  constexpr int W = Lanes<R>::W;
  const int n = gate.n, N = gate.width, U = gate.components;
  const size_t size = size_t(n) * N;
  ScoreGradient<R> g;
  g.logits = dw, g.turned = arena.take<R>(size), g.w_turned = arena.take<R>(size);
  R* w = arena.take<R>(size);
  const auto field = [&] {
    R* p = arena.take<R>(N);
    std::fill(p, p + N, R(0));
    return p;
  };
  R *d_alpha[3], *d_beta[3], *total = field();
  for (int c = 0; c < U; ++c) d_alpha[c] = field(), d_beta[c] = field();
  const auto weigh_all = [&](auto components) {
    constexpr int C = decltype(components)::value;
    int j = 0;
    for (; j + 4 <= n; j += 4) weigh<R, C, 4>(j, dw, w, s, gate, d_alpha, d_beta, total);
    for (; j < n; ++j) weigh<R, C, 1>(j, dw, w, s, gate, d_alpha, d_beta, total);
  };
  if (U == 3)
    weigh_all(std::integral_constant<int, 3>());
  else
    weigh_all(std::integral_constant<int, 1>());
  for (int i = 0; i < N; i += W) store(total + i, load(total + i) / load(s.z + i));
  const bool smooth = gate.sw != nullptr, lengths = s.length.q != nullptr;
  R *r_q = field(), *r_k = field(), *s_q = field(), *s_k = field();
  const auto divide_all = [&](auto smoothly) {
    constexpr bool S = decltype(smoothly)::value;
    int j = 0;
    for (; j + 4 <= n; j += 4) divide<R, S, 4>(j, dw, s, gate, total, r_q, r_k, s_q, s_k);
    for (; j < n; ++j) divide<R, S, 1>(j, dw, s, gate, total, r_q, r_k, s_q, s_k);
  };
  if (smooth)
    divide_all(std::true_type());
  else
    divide_all(std::false_type());
  g.c_q = g.c_k = g.c_v = nullptr;
  if (lengths) g.c_q = field(), g.c_k = field(), g.c_v = field();
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < U; ++c)
      gate.g_u[c][i] += d_alpha[c][i] / s.z[i] + (lengths ? d_beta[c][i] / s.length.v[i] : d_beta[c][i]);
    R rq = r_q[i], rk = r_k[i];
    if (smooth) {
      // x is proportional to sw_q and to sw_k; where sw is exactly zero, so is everything that it multiplies.
      if (gate.sw[i] != 0) gate.g_sw[i] += (rq + rk) / gate.sw[i];
      const R shift = R(ATTENTION_SHIFT) * gate.sw[i];
      rq -= shift * s_q[i];
      rk -= shift * s_k[i];
    }
    if (!lengths) continue;
    R v = 0;
    for (int c = 0; c < U; ++c) v += d_beta[c][i] * s.beta[c][i];
    // A length that is held at the least one does not change.
    const auto pull = [](R along, R length) { return length > R(NORM_EPS) ? -along / (length * length) : R(0); };
    g.c_q[i] = pull(rq, s.length.q[i]);
    g.c_k[i] = pull(rk, s.length.k[i]);
    g.c_v[i] = pull(v, s.length.v[i]);
  }
  transpose(n, dw, g.turned, N);
  transpose(n, w, g.w_turned, N);
  return g;
}

}  // namespace dpa1
