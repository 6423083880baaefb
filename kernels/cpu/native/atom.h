// One atom: from its neighbours to the moments X = Σ_j g_j ⊗ row_j, and back to dE/dd.
#pragma once

#include <vector>

#include "model.h"
#include "moments.h"

namespace dpa1 {

template <class R>
class Atom {
 public:
  /// X (4, M), without what empty slots add, from the atom's edges: vectors d (n, 3) in Å and types (n). Without attention
  /// X (4, r) in the coordinates of ``basis``, where one is given; then no neighbour may be nearer than the model says.
  void forward(const Model<R>& model, int center, int n, const double* d, const int* types, const Basis<R>* basis,
               R* x, Arena& keep, Arena& scratch) {
    model_ = &model;
    center_ = center;
    gather(n, d, types, keep);
    const double* statistics = model.davg.data() + 4 * center;
    env_ = environment(d_, n, width_, statistics, model.dstd.data() + 4 * center, model.smoothing, keep);
    for (int c = 0; c < 4; ++c) row_[c] = narrow(env_.row[c], keep);
    sw_ = model.smooth ? narrow(env_.sw, keep) : nullptr;
    const bool sampled = env_.nearest >= model.nearest, alone = model.attention.empty();
    basis_ = sampled ? basis : nullptr;
    const Series<R>* const* mine = model.series_of.data() + size_t(center) * model.ntypes;
    if (alone && basis_)
      series_ = basis_->of_type;
    else
      series_.assign(mine, mine + model.ntypes);
    fitted_ = sampled;
    for (const Segment& s : segments_) fitted_ = fitted_ && series_[s.type];
    std::fill(x, x + 4 * (alone && basis_ ? basis_->r : model.m), R(0));
    if (n == 0) return;
    if (alone && fitted_) {
      SeriesMoments<R>::forward(series_, segments_, env_.row[0], sw_, row_, x, scratch);
      return;
    }
    embed(keep, scratch);
    if (!model.attention.empty()) attend(keep, scratch);
    moments<R>(model.m, width_, g_, row_, x);
  }

  /// dE/dd of every edge, in the order of ``forward``'s d, from dE/dX (4, M).
  void backward(const R* dx, double* out, Arena& scratch) {
    const Model<R>& model = *model_;
    const int n = env_.n;
    if (n == 0) return;
    const auto mark = scratch.mark();
    if (model.attention.empty() && fitted_) {
      SeriesMoments<R>::backward(series_, segments_, env_.row[0], sw_, row_, dx, env_.g_row[0], env_.g_sw, env_.g_row,
                                 scratch);
    } else {
      R* dg = scratch.take<R>(size_t(model.m) * width_);
      R* drow[4];
      for (R*& p : drow) p = zeros(scratch);
      moments_backward<R>(model.m, width_, dx, g_, row_, dg, drow);
      for (int c = 0; c < 4; ++c) widen(drow[c], env_.g_row[c]);
      R* dphi = model.attention.empty() ? nullptr : attend_backward(dg, scratch);
      embed_backward(dg, dphi, scratch);
    }
    double* sorted = scratch.take<double>(3 * size_t(n));
    environment_backward(env_, d_, model.dstd.data() + 4 * center_, model.smoothing,
                         !model.attention.empty() && model.dotr, sorted);
    for (int j = 0; j < n; ++j) std::memcpy(out + 3 * order_[j], sorted + 3 * j, 3 * sizeof(double));
    scratch.release(mark);
  }

 private:
  // --- helpers ------------------------------------------------------------------------------------------------------

  R* zeros(Arena& arena) const {
    R* p = arena.take<R>(width_);
    std::fill(p, p + width_, R(0));
    return p;
  }

  R* narrow(const double* from, Arena& arena) const {
    R* p = arena.take<R>(width_);
    for (int i = 0; i < width_; ++i) p[i] = R(from[i]);
    return p;
  }

  void widen(const R* from, double* to) const {
    for (int i = 0; i < env_.n; ++i) to[i] += from[i];
  }

  /// Sorts neighbours by type, those of one type in their own order.
  void gather(int n, const double* d, const int* types, Arena& keep) {
    width_ = padded<R>(n);
    order_ = keep.take<int>(n);
    type_ = keep.take<int>(n);
    d_ = keep.take<double>(3 * size_t(n));
    start_.assign(model_->ntypes + 1, 0);
    for (int j = 0; j < n; ++j) ++start_[types[j] + 1];
    segments_.clear();
    for (int t = 0; t < model_->ntypes; ++t) {
      start_[t + 1] += start_[t];
      if (start_[t + 1] > start_[t]) segments_.push_back({t, start_[t], start_[t + 1]});
    }
    for (int j = 0; j < n; ++j) {
      const int k = start_[types[j]]++;
      order_[k] = j;
      type_[k] = types[j];
      std::memcpy(d_ + 3 * k, d + 3 * j, 3 * sizeof(double));
    }
  }

  // --- embedding ----------------------------------------------------------------------------------------------------

  /// g (M, width), with b_out of the first attention layer where there is one.
  void embed(Arena& keep, Arena& scratch) {
    const Model<R>& model = *model_;
    const int N = width_;
    g_ = keep.take<R>(size_t(model.m) * N);
    if (basis_) {
      expand_all(basis_->of_type, keep);
      phi_ = keep.take<R>(size_t(basis_->r + 1) * N);
      expand<R>(basis_->of_type, segments_, t_, sw_, N, phi_, scratch);
      std::fill(phi_ + size_t(basis_->r) * N, phi_ + size_t(basis_->r + 1) * N, R(1));
      gemm<R>(model.m, N, basis_->r, basis_->span.transposed(), phi_, N, g_, N, Start::zero,
              model.b_out.data());
      return;
    }
    if (fitted_) {
      expand_all(series_, keep);
      expand<R>(series_, segments_, t_, sw_, N, g_, scratch);
    } else {
      embed_by_net(keep);
    }
    if (!model.b_out.empty())
      for (int k = 0; k < model.m; ++k)
        for (int i = 0; i < N; i += Lanes<R>::W)
          store(g_ + size_t(k) * N + i, load(g_ + size_t(k) * N + i) + model.b_out[k]);
  }

  void expand_all(const std::vector<const Series<R>*>& series, Arena& keep) {
    int terms = 0;
    for (const Segment& s : segments_) terms = std::max(terms, series[s.type]->terms);
    const Series<R>& any = *series[segments_.front().type];
    t_ = polynomials<R>(env_.row[0], env_.n, width_, any.lo, any.hi, terms, keep);
  }

  void embed_by_net(Arena& keep) {
    const Model<R>& model = *model_;
    const FirstLayer<R>& f = model.first;
    const int N = width_, n = env_.n;
    R *y = keep.take<R>(size_t(f.width) * N), *d = keep.take<R>(size_t(f.width) * N);
    std::fill(y, y + size_t(f.width) * N, R(0));
    for (int j = 0; j < n; ++j) {
      const R* pre = f.pre.data() + pair(j) * f.width;
      for (int k = 0; k < f.width; ++k) y[size_t(k) * N + j] = pre[k] + f.w_s[k] * row_[0][j];
    }
    model.embedding.activation.apply(y, d, size_t(f.width) * N);
    for (int k = 0; k < f.width; ++k)
      for (int j = 0; j < n; ++j) {
        R &v = y[size_t(k) * N + j], &slope = d[size_t(k) * N + j];
        if (!f.idt.empty()) v *= f.idt[k], slope *= f.idt[k];
        if (!f.r_s.empty()) v += f.r_s[k] * row_[0][j];
        if (!f.r_types.empty()) v += f.r_types[pair(j) * f.width + k];
      }
    first_slope_ = d;
    saved_.clear();
    y = model.embedding.forward(y, N, saved_, keep);
    if (!model.strip) {
      std::memcpy(g_, y, size_t(model.m) * N * sizeof(R));
      return;
    }
    g_s_ = y;
    for (int k = 0; k < model.m; ++k)
      for (int j = 0; j < N; ++j) g_[size_t(k) * N + j] = j < n ? y[size_t(k) * N + j] * factor(k, j) : R(0);
  }

  size_t pair(int j) const { return size_t(center_) * model_->ntypes + type_[j]; }
  R type_part(int k, int j) const { return model_->g_type[pair(j) * model_->m + k]; }
  R factor(int k, int j) const { return R(1) + type_part(k, j) * (sw_ ? sw_[j] : R(1)); }

  void embed_backward(R* dg, R* dphi, Arena& scratch) {
    const Model<R>& model = *model_;
    const int N = width_, n = env_.n;
    if (basis_) {
      gemm<R>(basis_->r, N, model.m, basis_->span.straight(), dg, N, dphi, N, Start::add);
      expand_backward<R>(basis_->of_type, segments_, t_, sw_, dphi, N, env_.g_row[0], env_.g_sw, scratch);
      return;
    }
    if (fitted_) {
      expand_backward<R>(series_, segments_, t_, sw_, dg, N, env_.g_row[0], env_.g_sw, scratch);
      return;
    }
    if (model.strip)
      for (int k = 0; k < model.m; ++k)
        for (int j = 0; j < n; ++j) {
          R& v = dg[size_t(k) * N + j];
          if (sw_) env_.g_sw[j] += double(v) * g_s_[size_t(k) * N + j] * type_part(k, j);
          v *= factor(k, j);
        }
    const FirstLayer<R>& f = model.first;
    const R* gy = model.embedding.backward(dg, N, saved_, scratch, f.width);
    for (int k = 0; k < f.width; ++k)
      for (int j = 0; j < n; ++j) {
        const R v = gy[size_t(k) * N + j];
        env_.g_row[0][j] += v * (first_slope_[size_t(k) * N + j] * f.w_s[k] + (f.r_s.empty() ? R(0) : f.r_s[k]));
      }
  }

  // --- attention ----------------------------------------------------------------------------------------------------

  void attend(Arena& keep, Arena& scratch) {
    const Model<R>& model = *model_;
    const int N = width_, n = env_.n;
    gate_.n = n, gate_.width = N, gate_.components = model.dotr ? 3 : 1;
    gate_.sw = sw_;
    gate_.n_empty = model.smooth ? R(model.nsel - n) : R(0);
    for (int c = 0; c < gate_.components; ++c) {
      gate_.u[c] = zeros(keep), gate_.g_u[c] = zeros(keep);
      if (model.dotr)
        for (int j = 0; j < n; ++j) gate_.u[c][j] = R(env_.unit[c][j]);
      else
        std::fill(gate_.u[c], gate_.u[c] + n, R(1));
      if (sw_)
        for (int j = 0; j < n; ++j) gate_.u[c][j] *= sw_[j];
    }
    gate_.g_sw = zeros(keep);
    layers_.clear();
    for (size_t k = 0; k < model.attention.size(); ++k)
      layers_.push_back(k == 0 && basis_ ? basis_->layer.forward(phi_, g_, gate_, keep, scratch)
                                         : model.attention[k].forward(g_, gate_, keep, scratch));
  }

  /// dE/d(last g) becomes dE/d(first g); dE/dφ̂ is returned where there is a basis.
  R* attend_backward(R* dg, Arena& scratch) {
    const Model<R>& model = *model_;
    R* dphi = basis_ ? scratch.take<R>(size_t(basis_->r + 1) * width_) : nullptr;
    for (size_t k = layers_.size(); k-- > 0;) {
      if (k == 0 && basis_)
        basis_->layer.backward(dg, dphi, phi_, layers_[k], gate_, scratch);
      else
        model.attention[k].backward(dg, layers_[k], gate_, scratch);
    }
    widen(gate_.g_sw, env_.g_sw);
    for (int c = 0; c < gate_.components; ++c)
      for (int j = 0; j < env_.n; ++j) {
        const double g = gate_.g_u[c][j];
        if (sw_) env_.g_sw[j] += g * (model.dotr ? env_.unit[c][j] : 1.0);
        if (model.dotr) env_.g_unit[c][j] += g * (sw_ ? double(sw_[j]) : 1.0);
      }
    return dphi;
  }

  const Model<R>* model_ = nullptr;
  const Basis<R>* basis_ = nullptr;
  int center_ = 0, width_ = 0;
  bool fitted_ = false;
  int *order_ = nullptr, *type_ = nullptr;
  double* d_ = nullptr;
  std::vector<int> start_;
  std::vector<Segment> segments_;
  std::vector<const Series<R>*> series_;
  Environment env_;
  R *row_[4], *sw_ = nullptr, *t_ = nullptr, *phi_ = nullptr, *g_ = nullptr, *g_s_ = nullptr, *first_slope_ = nullptr;
  typename Network<R>::Saved saved_;
  Gate<R> gate_;
  std::vector<LayerState<R>> layers_;
};

}  // namespace dpa1
