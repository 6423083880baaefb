// Embedding of neighbours with gradients of its parameters. Formulas: reference.embedding_concat, embedding_strip.
//
// Neighbours are rows. The first layer is linear in s and in the two types, so its type part is a table over pairs of
// types (first_types), as is what its residual returns of them (first_returns) and the type factor of strip (factors):
// small functions of the parameters that torch differentiates.
#pragma once

#include "parameters.h"

namespace dpa1 {

/// Tables over the pairs of types at hand, and their gradients; rows of tables are as long as they are, not padded.
template <class R>
struct Tables {
  const R *first_types, *first_returns, *factors;
};

/// Some neighbours of a few atoms: what is known of each.
template <class R, int P>
struct Neighbors {
  int n = 0;
  const int32_t *first_pair = nullptr, *pair = nullptr;  // (n) rows of the tables
  Planes<R, P> row, sw, unit;                            // (n, 4), (n, 1), (n, 3), rows not padded
};

/// Adds to each row of y (rows, n_out) what the residual returns of x (rows, n_in).
template <class R, int P>
void add_residual(int rows, int n_in, int n_out, Planes<R, P> x, Planes<R, P> y) {
  const Residual kind = residual(n_in, n_out);
  if (kind == Residual::none) return;
  for (int p = 0; p < P; ++p)
    for (int i = 0; i < rows; ++i) {
      const R* in = x.plane[p] + i * x.ld;
      R* out = y.plane[p] + i * y.ld;
      for (int c = 0; c < n_in; ++c) out[c] += in[c];
      if (kind == Residual::twice)
        for (int c = 0; c < n_in; ++c) out[n_in + c] += in[c];
    }
}

template <class R, int P>
class EmbeddingPass {
 public:
  using T = Lane<R, P>;

  /// g (n, M), zero in padded columns.
  Planes<R, P> forward(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables, Arena& keep) {
    const Shape& s = w.shape;
    const int n = near.n;
    layers_.resize(s.widths.size());
    for (size_t k = 0; k < layers_.size(); ++k) {
      Saved& l = layers_[k];
      const int width = s.widths[k], idt = w.index.layers[k].idt;
      l.out = take<R, P>(keep, n, width), l.slope = take<R, P>(keep, n, width);
      if (idt >= 0) l.act = take<R, P>(keep, n, width);
      if (k == 0)
        first(w, near, tables, l.out);
      else {
        const Parameter<R>&weight = w[w.index.layers[k].weight], &bias = w[w.index.layers[k].bias];
        for (int i = 0; i < n; ++i)
          for (int c = 0; c < l.out.ld; c += W) l.out.put(i * l.out.ld + c, plus(T{}, load(bias.w() + c)));
        product<R, P>(n, weight.ld(), weight.rows, layers_[k - 1].out, weight.w(), weight.ld(), l.out, Start::add);
      }
      const R* step = idt >= 0 ? w[idt].w() : nullptr;
      for (int i = 0; i < n; ++i)
        for (int c = 0; c < l.out.ld; c += W) {
          const ptrdiff_t at = i * l.out.ld + c;
          T d;
          T y = s.activation.template at<R, T>(l.out.get(at), d);
          if (step) {
            l.act.put(at, y);
            y = times(y, load(step + c)), d = times(d, load(step + c));
          }
          l.out.put(at, y);
          l.slope.put(at, d);
        }
      if (k == 0)
        first_residual(w, near, tables, l.out);
      else
        add_residual<R, P>(n, s.widths[k - 1], width, layers_[k - 1].out, l.out);
    }
    Planes<R, P> g = layers_.back().out;
    if (s.strip) {
      g = take<R, P>(keep, n, s.m());
      each_factor(w, near, tables, [&](int i, int c, T factor, Vec<R>) {
        const ptrdiff_t at = i * g.ld + c;
        g.put(at, layers_.back().out.get(at) * factor);
      });
    }
    const int m = s.m();
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < n; ++i) std::fill(g.plane[p] + i * g.ld + m, g.plane[p] + (i + 1) * g.ld, R(0));
    return g;
  }

  /// From dE/dg, overwritten. With ``grads`` the parameters' gradients, and those of the tables in ``of_tables``
  /// (rows as in the tables); without, dE/d(row[0]) into ``g_s`` (stride 4) and dE/dsw added to ``g_sw``.
  void backward(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables, Planes<R, P> g,
                Gradients<R>* grads, R* const* of_tables, R* g_s, R* g_sw, Arena& scratch) {
    const Shape& s = w.shape;
    const int n = near.n;
    if (s.strip) strip_backward(w, near, tables, g, grads ? of_tables[2] : nullptr, g_sw);
    for (size_t k = layers_.size(); k-- > 0;) {
      Saved& l = layers_[k];
      const int width = s.widths[k], idt = w.index.layers[k].idt;
      if (grads && idt >= 0) column_sums(n, g, l.act, (*grads)[idt]);
      if (k == 0 && grads && tables.first_returns) table_sums(n, width, g, near.first_pair, of_tables[1]);
      if (k == 0 && !grads) radial(w[w.index.residual], n, width, g, g_s);
      Planes<R, P> gz = k == 0 ? g : take<R, P>(scratch, n, width);
      for (ptrdiff_t at = 0; at < n * g.ld; at += W) gz.put(at, g.get(at) * l.slope.get(at));
      if (k == 0) {
        if (grads) first_backward(w, near, gz, *grads, of_tables[0]);
        else radial(w[w.index.radial], n, width, gz, g_s);
        return;
      }
      const Parameter<R>& weight = w[w.index.layers[k].weight];
      if (grads) {
        weight_gradient<R, P>(weight.rows, weight.ld(), n, layers_[k - 1].out, gz, (*grads)[w.index.layers[k].weight],
                              weight.ld());
        column_sums(n, gz, (*grads)[w.index.layers[k].bias]);
      }
      Planes<R, P> gx = take<R, P>(scratch, n, weight.rows);
      product<R, P>(n, int(gx.ld), width, gz, weight.turned(), weight.ld_turned(), gx, Start::zero);
      back_residual(n, weight.rows, width, g, gx);
      g = gx;
    }
  }

  /// Sums of g down the rows, added to out: of E's or of its derivative's gradient.
  static void column_sums(int n, Planes<R, P> g, R* out) {
    for (int c = 0; c < g.ld; c += W) {
      Vec<R> sum = load(out + c);
      for (int i = 0; i < n; ++i) sum += of_weight<R>(g.get(i * g.ld + c));
      store(out + c, sum);
    }
  }
  static void column_sums(int n, Planes<R, P> g, Planes<R, P> by, R* out) {
    for (int c = 0; c < g.ld; c += W) {
      Vec<R> sum = load(out + c);
      for (int i = 0; i < n; ++i) sum += of_weight<R>(g.get(i * g.ld + c) * by.get(i * by.ld + c));
      store(out + c, sum);
    }
  }

 private:
  static constexpr int W = Lanes<R>::W;
  struct Saved {
    Planes<R, P> out, slope, act;
  };
  std::vector<Saved> layers_;

  /// The first W numbers from ``row`` of ``width``, zero beyond it.
  static Vec<R> within(const R* row, int c, int width) {
    if (c + W <= width) return load(row + c);
    R lane[W] = {};
    for (int l = 0; c + l < width; ++l) lane[l] = row[c + l];
    return load(lane);
  }

  void first(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables, Planes<R, P> z) const {
    const R* by_s = w[w.index.radial].w();
    const int width = w.shape.widths[0];
    for (int i = 0; i < near.n; ++i) {
      const T s = spread<R>(near.row.one(i * 4));
      const R* types = tables.first_types + size_t(near.first_pair[i]) * width;
      for (int c = 0; c < z.ld; c += W) z.put(i * z.ld + c, plus(times(s, load(by_s + c)), within(types, c, width)));
    }
  }

  void first_residual(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables,
                      Planes<R, P> y) const {
    if (!tables.first_returns) return;
    const R* returns = w[w.index.residual].w();
    const int width = w.shape.widths[0];
    for (int i = 0; i < near.n; ++i) {
      const T s = spread<R>(near.row.one(i * 4));
      const R* types = tables.first_returns + size_t(near.first_pair[i]) * width;
      for (int c = 0; c < y.ld; c += W)
        y.add(i * y.ld + c, plus(times(s, load(returns + c)), within(types, c, width)));
    }
  }

  /// g_s += Σ_c g_c by_c
  static void radial(const Parameter<R>& by, int n, int, Planes<R, P> g, R* g_s) {
    for (int i = 0; i < n; ++i) {
      Vec<R> sum_ = {};
      for (int c = 0; c < g.ld; c += W) sum_ += value_of(g.get(i * g.ld + c)) * load(by.w() + c);
      g_s[i * 4] += sum<R>(sum_);
    }
  }

  void first_backward(const Parameters<R>& w, const Neighbors<R, P>& near, Planes<R, P> gz, Gradients<R>& grads,
                      R* of_types) const {
    R* of_s = grads[w.index.radial];
    for (int c = 0; c < gz.ld; c += W) {
      Vec<R> sum_ = load(of_s + c);
      for (int i = 0; i < near.n; ++i)
        sum_ += of_weight<R>(gz.get(i * gz.ld + c) * spread<R>(near.row.one(i * 4)));
      store(of_s + c, sum_);
    }
    table_sums(near.n, w.shape.widths[0], gz, near.first_pair, of_types);
  }

  /// Adds each row of g (of its weights' part) to the row of its pair.
  static void table_sums(int n, int width, Planes<R, P> g, const int32_t* pair, R* out) {
    const R* from = g.plane[P - 1];
    for (int i = 0; i < n; ++i) {
      R* row = out + size_t(pair[i]) * width;
      for (int c = 0; c < width; ++c) row[c] += from[i * g.ld + c];
    }
  }

  static void back_residual(int n, int n_in, int n_out, Planes<R, P> g, Planes<R, P> gx) {
    const Residual kind = residual(n_in, n_out);
    if (kind == Residual::none) return;
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < n; ++i) {
        const R* in = g.plane[p] + i * g.ld;
        R* out = gx.plane[p] + i * gx.ld;
        for (int c = 0; c < n_in; ++c) out[c] += kind == Residual::twice ? in[c] + in[n_in + c] : in[c];
      }
  }

  /// f(neighbour, channel, 1 + t·sw or 1 + t, t)
  template <class F>
  void each_factor(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables, F f) const {
    const int m = w.shape.m();
    for (int i = 0; i < near.n; ++i) {
      const R* factors = tables.factors + size_t(near.pair[i]) * m;
      const T sw = w.shape.smooth ? spread<R>(near.sw.one(i)) : number<T>(R(1));
      for (int c = 0; c < padded<R>(m); c += W) {
        const Vec<R> t = within(factors, c, m);
        f(i, c, times(sw, t) + R(1), t);
      }
    }
  }

  void strip_backward(const Parameters<R>& w, const Neighbors<R, P>& near, const Tables<R>& tables, Planes<R, P> g,
                      R* of_factors, R* g_sw) const {
    const int m = w.shape.m();
    const Planes<R, P> gs = layers_.back().out;
    R lane[W];
    each_factor(w, near, tables, [&](int i, int c, T factor, Vec<R> t) {
      const ptrdiff_t at = i * g.ld + c;
      const T both = g.get(at) * gs.get(at);
      if (of_factors) {
        const T sw = w.shape.smooth ? spread<R>(near.sw.one(i)) : number<T>(R(1));
        store(lane, of_weight<R>(both * sw));
        R* row = of_factors + size_t(near.pair[i]) * m + c;
        for (int l = 0; l < W && c + l < m; ++l) row[l] += lane[l];
      } else if (w.shape.smooth) {
        g_sw[i] += sum<R>(value_of(both) * t);
      }
      g.put(at, g.get(at) * factor);
    });
  }
};

}  // namespace dpa1
