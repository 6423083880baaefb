// One layer of gated attention with gradients of its parameters. Formula: reference.gated_attention_layer.
//
// Neighbours are rows; those of one atom are a block of rows, and attend to each other alone. Weights are taken as they
// are: products of them (attention.h) are worth their price over many evaluations, not over one.
#pragma once

#include "embedding_training.h"
#include "environment.h"

namespace dpa1 {

constexpr double ATTENTION_SHIFT_ = 20.0;  // reference.ATTENTION_SHIFT

/// The neighbours of one atom among the rows at hand.
struct Block {
  int begin, n;
  double empty;  // logit that stands for all empty slots, for smooth attention
};

/// Switch and direction of one atom's neighbours as columns, zero beyond them.
template <class R, int P>
struct Columns {
  Planes<R, P> sw, unit;  // (1, N), (3, N)
};

template <class R, int P>
Columns<R, P> columns_of(const Neighbors<R, P>& near, const Block& b, const Shape& s, Arena& keep) {
  Columns<R, P> c;
  c.sw = take<R, P>(keep, 1, b.n, true), c.unit = take<R, P>(keep, 3, b.n, true);
  for (int p = 0; p < P; ++p)
    for (int j = 0; j < b.n; ++j) {
      if (s.smooth) c.sw.plane[p][j] = near.sw.plane[p][b.begin + j];
      if (s.dotr)
        for (int x = 0; x < 3; ++x) c.unit.plane[p][x * c.unit.ld + j] = near.unit.plane[p][(b.begin + j) * 3 + x];
    }
  return c;
}

template <class R, int P>
class AttentionPass {
 public:
  using T = Lane<R, P>;

  AttentionPass(const Parameters<R>& w, int layer)
      : w_(w), at_(w.index.attention[layer]), s_(w.shape), m_(s_.m()), a_(s_.attn), ap_(padded<R>(a_)) {}

  /// The next g (n, M) from g, both kept.
  Planes<R, P> forward(Planes<R, P> g, int n, const std::vector<Block>& blocks, const std::vector<Columns<R, P>>& cols,
                       Arena& keep, Arena& scratch) {
    g_ = g;
    const Parameter<R>&w_in = w_[at_.w_in], &w_out = w_[at_.w_out];
    qkv_ = take<R, P>(keep, n, 3 * ap_);
    fill(n, qkv_, w_[at_.b_in].w());
    product<R, P>(n, w_in.ld(), m_, g, w_in.w(), w_in.ld(), qkv_, Start::add);
    if (s_.normalize) normalise(n, keep);
    mixed_ = take<R, P>(keep, n, a_);
    weights_.clear(), logits_.clear();
    for (size_t b = 0; b < blocks.size(); ++b) {
      const auto mark = scratch.mark();
      mix(blocks[b], cols[b], keep, scratch);
      scratch.release(mark);
    }
    Planes<R, P> y = take<R, P>(keep, n, m_);
    fill(n, y, w_[at_.b_out].w());
    for (ptrdiff_t k = 0; k < n * y.ld; k += W) y.add(k, g.get(k));
    product<R, P>(n, w_out.ld(), a_, mixed_, w_out.w(), w_out.ld(), y, Start::add);
    return norm(n, y, keep);
  }

  /// From dE/d(next g), overwritten, to dE/dg. With ``grads`` the parameters' gradients; without, what switch and
  /// direction receive is added to g_sw (n) and g_unit (n, 3).
  Planes<R, P> backward(Planes<R, P> gy, int n, const std::vector<Block>& blocks,
                        const std::vector<Columns<R, P>>& cols, Gradients<R>* grads, R* g_sw, R* g_unit,
                        Arena& scratch) {
    norm_backward(n, gy, grads);
    const Parameter<R>&w_in = w_[at_.w_in], &w_out = w_[at_.w_out];
    if (grads) {
      EmbeddingPass<R, P>::column_sums(n, gy, (*grads)[at_.b_out]);
      weight_gradient<R, P>(a_, w_out.ld(), n, mixed_, gy, (*grads)[at_.w_out], w_out.ld());
    }
    Planes<R, P> g_mixed = take<R, P>(scratch, n, a_);
    product<R, P>(n, int(g_mixed.ld), m_, gy, w_out.turned(), w_out.ld_turned(), g_mixed, Start::zero);
    Planes<R, P> g_qkv = take<R, P>(scratch, n, 3 * ap_);
    for (size_t b = 0; b < blocks.size(); ++b) {
      const auto mark = scratch.mark();
      mix_backward(blocks[b], cols[b], int(b), g_mixed, g_qkv, grads == nullptr, g_sw, g_unit, scratch);
      scratch.release(mark);
    }
    if (s_.normalize) normalise_backward(n, g_qkv);
    if (grads) {
      EmbeddingPass<R, P>::column_sums(n, g_qkv, (*grads)[at_.b_in]);
      weight_gradient<R, P>(m_, w_in.ld(), n, g_, g_qkv, (*grads)[at_.w_in], w_in.ld());
    }
    product<R, P>(n, int(gy.ld), 3 * ap_, g_qkv, w_in.turned(), w_in.ld_turned(), gy, Start::add);
    return gy;
  }

 private:
  static constexpr int W = Lanes<R>::W;
  using Mask = typename Lanes<R>::I;
  const Parameters<R>& w_;
  const Index::Attention& at_;
  const Shape& s_;
  const int m_, a_, ap_;
  Planes<R, P> g_, qkv_, inverse_, mixed_, hat_, rstd_;
  std::vector<Planes<R, P>> weights_;  // of each block, (n, N): the softmax before gates
  std::vector<Planes<R, P>> logits_;   // where switches receive gradients

  static void fill(int n, Planes<R, P> y, const R* bias) {
    for (int i = 0; i < n; ++i)
      for (int c = 0; c < y.ld; c += W) y.put(i * y.ld + c, plus(T{}, load(bias + c)));
  }

  /// Which of the W columns from c on are among the first n.
  static Mask among(int c, int n) {
    Mask lane;
    for (int l = 0; l < W; ++l) lane[l] = c + l < n ? -1 : 0;
    return lane;
  }

  static Lane<R, 1> reciprocal_root(Lane<R, 1> x) { return R(1) / root<R>(x); }
  static Lane<R, 2> reciprocal_root(Lane<R, 2> x) {
    const Vec<R> r = R(1) / root<R>(x.value);
    return {r, R(-0.5) * r * r * r * x.slope};
  }

  /// x ← x / max(|x|, 1e-12) for q, k and v of each row; 1/|x| is kept, constant where |x| is held.
  void normalise(int n, Arena& keep) {
    inverse_ = take<R, P>(keep, n, 3 * W);
    for (int i = 0; i < n; ++i)
      for (int x = 0; x < 3; ++x) {
        const ptrdiff_t at = i * qkv_.ld + x * ap_;
        T square = {};
        for (int c = 0; c < ap_; c += W) square += qkv_.get(at + c) * qkv_.get(at + c);
        const T all = spread<R>(total<R>(square));
        const Vec<R> held = splat(R(1 / NORM_EPS)), length = root<R>(value_of(all));
        const T inverse = select(length < R(NORM_EPS), plus(T{}, held), reciprocal_root(all));
        inverse_.put(i * inverse_.ld + x * W, inverse);
        for (int c = 0; c < ap_; c += W) qkv_.put(at + c, qkv_.get(at + c) * inverse);
      }
  }

  void normalise_backward(int n, Planes<R, P> g) const {
    for (int i = 0; i < n; ++i)
      for (int x = 0; x < 3; ++x) {
        const ptrdiff_t at = i * g.ld + x * ap_;
        const T inverse = inverse_.get(i * inverse_.ld + x * W);
        T along = {};
        for (int c = 0; c < ap_; c += W) along += g.get(at + c) * qkv_.get(at + c);
        T all = spread<R>(total<R>(along));
        all = select(value_of(inverse) < R(1 / NORM_EPS), all, T{});
        for (int c = 0; c < ap_; c += W) g.put(at + c, (g.get(at + c) - qkv_.get(at + c) * all) * inverse);
      }
  }

  Planes<R, P> part(Planes<R, P> x, const Block& b, int which) const { return x.from(b.begin * x.ld + which * ap_); }

  T gate(const Columns<R, P>& c, T sw, int j) const { return s_.smooth ? sw * c.sw.get(j) : number<T>(R(1)); }
  T angle(const Columns<R, P>& c, const T* unit, int j) const {
    if (!s_.dotr) return number<T>(R(1));
    return unit[0] * c.unit.get(j) + unit[1] * c.unit.get(c.unit.ld + j) + unit[2] * c.unit.get(2 * c.unit.ld + j);
  }
  struct Query {
    T sw, unit[3];
  };
  Query query(const Columns<R, P>& c, int i) const {
    Query q = {};
    if (s_.smooth) q.sw = spread<R>(c.sw.one(i));
    if (s_.dotr)
      for (int x = 0; x < 3; ++x) q.unit[x] = spread<R>(c.unit.one(x * c.unit.ld + i));
    return q;
  }

  /// Attention among the neighbours of one atom: rows of ``mixed_``.
  void mix(const Block& b, const Columns<R, P>& cols, Arena& keep, Arena& scratch) {
    const int n = b.n, N = padded<R>(n);
    weights_.push_back(take<R, P>(keep, n, n));
    Planes<R, P> w = weights_.back(), gated = take<R, P>(scratch, n, n), kt = take<R, P>(scratch, a_, n);
    transpose<R, P>(n, a_, part(qkv_, b, 1), kt);
    product<R, P>(n, N, a_, part(qkv_, b, 0), false, kt, w, Start::zero);
    const bool shifted = s_.smooth;
    if (P == 1 && shifted) logits_.push_back(take<R, P>(keep, n, n));
    const R shift = R(ATTENTION_SHIFT_), scale = R(s_.scale);
    for (int i = 0; i < n; ++i) {
      const Query q = query(cols, i);
      const ptrdiff_t at = i * w.ld;
      Vec<R> most = splat(R(-INFINITY));
      for (int j = 0; j < N; j += W) {
        T l = w.get(at + j) * scale;
        if (shifted) {
          if (P == 1) logits_.back().put(at + j, l);
          l = (l + shift) * gate(cols, q.sw, j) - shift;
        }
        w.put(at + j, l);
        most = larger<R>(most, among(j, n) ? value_of(l) : splat(R(-INFINITY)));
      }
      R top = shifted ? R(b.empty) : R(-INFINITY);
      for (int l = 0; l < W; ++l) top = most[l] > top ? most[l] : top;
      T sum_ = {};
      for (int j = 0; j < N; j += W) {
        const T e = select(among(j, n), exp(w.get(at + j) - top), T{});
        w.put(at + j, e);
        sum_ += e;
      }
      Scalar<R, P> all = total<R>(sum_);
      if (shifted) all.at[0] += std::exp(R(b.empty) - top);
      const T inverse = number<T>(R(1)) / spread<R>(all);
      for (int j = 0; j < N; j += W) {
        const T x = w.get(at + j) * inverse;
        w.put(at + j, x);
        gated.put(at + j, x * gate(cols, q.sw, j) * angle(cols, q.unit, j));
      }
    }
    product<R, P>(n, ap_, n, gated, false, part(qkv_, b, 2), part_of_mixed(mixed_, b), Start::zero);
  }

  Planes<R, P> part_of_mixed(Planes<R, P> x, const Block& b) const { return x.from(b.begin * x.ld); }

  void mix_backward(const Block& b, const Columns<R, P>& cols, int which, Planes<R, P> g_mixed, Planes<R, P> g_qkv,
                    bool inputs, R* g_sw, R* g_unit, Arena& scratch) {
    const int n = b.n, N = padded<R>(n);
    const Planes<R, P> w = weights_[which], gm = part_of_mixed(g_mixed, b);
    Planes<R, P> vt = take<R, P>(scratch, a_, n), gw = take<R, P>(scratch, n, n), gated = take<R, P>(scratch, n, n);
    transpose<R, P>(n, a_, part(qkv_, b, 2), vt);
    product<R, P>(n, N, a_, gm, false, vt, gw, Start::zero);
    const R shift = R(ATTENTION_SHIFT_), scale = R(s_.scale);
    for (int i = 0; i < n; ++i) {
      const Query q = query(cols, i);
      const ptrdiff_t at = i * w.ld;
      T dot = {};
      for (int j = 0; j < N; j += W) {
        const T factor = gate(cols, q.sw, j) * angle(cols, q.unit, j), x = w.get(at + j);
        gated.put(at + j, x * factor);
        dot += gw.get(at + j) * factor * x;
      }
      const T all = spread<R>(total<R>(dot));
      Vec<R> of_sw = {}, of_unit[3] = {};
      for (int j = 0; j < N; j += W) {
        const T open = gate(cols, q.sw, j), turn = angle(cols, q.unit, j), x = w.get(at + j), g = gw.get(at + j);
        const T gl = x * (g * open * turn - all);
        gw.put(at + j, gl * open * scale);
        if (!inputs) continue;
        if constexpr (P == 1) {
          if (s_.smooth) {
            const Vec<R> g_gate = g * x * turn + gl * (logits_[which].get(at + j) + shift), sw = cols.sw.get(j);
            of_sw += g_gate * sw;
            add_lanes(g_sw + b.begin, 1, j, n, g_gate * q.sw);
          }
          if (s_.dotr)
            for (int k = 0; k < 3; ++k) {
              const Vec<R> g_angle = g * x * open;
              of_unit[k] += g_angle * cols.unit.get(k * cols.unit.ld + j);
              add_lanes(g_unit + b.begin * 3 + k, 3, j, n, g_angle * q.unit[k]);
            }
        }
      }
      if (inputs && s_.smooth) g_sw[b.begin + i] += sum<R>(of_sw);
      if (inputs && s_.dotr)
        for (int k = 0; k < 3; ++k) g_unit[(b.begin + i) * 3 + k] += sum<R>(of_unit[k]);
    }
    product<R, P>(n, ap_, n, gated, true, gm, part(g_qkv, b, 2), Start::zero);
    product<R, P>(n, ap_, n, gw, false, part(qkv_, b, 1), part(g_qkv, b, 0), Start::zero);
    product<R, P>(n, ap_, n, gw, true, part(qkv_, b, 0), part(g_qkv, b, 1), Start::zero);
  }

  static void add_lanes(R* out, int stride, int j, int n, Vec<R> x) {
    for (int l = 0; l < W && j + l < n; ++l) out[(j + l) * stride] += x[l];
  }

  /// γ x̂ + β from x (n, M), which becomes x̂.
  Planes<R, P> norm(int n, Planes<R, P> x, Arena& keep) {
    hat_ = x, rstd_ = take<R, P>(keep, n, W);
    Planes<R, P> out = take<R, P>(keep, n, m_);
    const R *gamma = w_[at_.gamma].w(), *beta = w_[at_.beta].w();
    for (int i = 0; i < n; ++i) {
      const ptrdiff_t at = i * x.ld;
      T mean = {}, square = {};
      for (int c = 0; c < x.ld; c += W) mean += x.get(at + c);
      mean = spread<R>(total<R>(mean)) * R(1.0 / m_);
      for (int c = 0; c < x.ld; c += W) {
        const T d = select(among(c, m_), x.get(at + c) - mean, T{});
        x.put(at + c, d);
        square += d * d;
      }
      const T rstd = reciprocal_root(spread<R>(total<R>(square)) * R(1.0 / m_) + R(s_.ln_eps));
      rstd_.put(i * rstd_.ld, rstd);
      for (int c = 0; c < x.ld; c += W) {
        const T hat = x.get(at + c) * rstd;
        x.put(at + c, hat);
        out.put(at + c, plus(times(hat, load(gamma + c)), load(beta + c)));
      }
    }
    return out;
  }

  /// g becomes dE/dx, x what ``norm`` received.
  void norm_backward(int n, Planes<R, P> g, Gradients<R>* grads) const {
    if (grads) {
      EmbeddingPass<R, P>::column_sums(n, g, hat_, (*grads)[at_.gamma]);
      EmbeddingPass<R, P>::column_sums(n, g, (*grads)[at_.beta]);
    }
    const R* gamma = w_[at_.gamma].w();
    for (int i = 0; i < n; ++i) {
      const ptrdiff_t at = i * g.ld;
      T mean = {}, along = {};
      for (int c = 0; c < g.ld; c += W) {
        const T x = times(g.get(at + c), load(gamma + c));
        g.put(at + c, x);
        mean += x, along += x * hat_.get(at + c);
      }
      const T a = spread<R>(total<R>(mean)) * R(1.0 / m_), b = spread<R>(total<R>(along)) * R(1.0 / m_);
      const T rstd = rstd_.get(i * rstd_.ld);
      for (int c = 0; c < g.ld; c += W)
        g.put(at + c, select(among(c, m_), (g.get(at + c) - a - hat_.get(at + c) * b) * rstd, T{}));
    }
  }
};

}  // namespace dpa1
