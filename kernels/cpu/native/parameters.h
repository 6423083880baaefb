// The parameters of embedding and attention as training sees them: one flat array, and matrices in whole vectors.
//
// The order of the flat array is that of kernels/cpu/training.py.
#pragma once

#include <array>

#include "dual.h"
#include "network.h"

namespace dpa1 {

/// What a model is, besides its numbers.
struct Shape {
  Activation activation;
  std::vector<int> widths;  // of the embedding's layers, at least one
  std::vector<int> steps;   // whether each of them has a time step
  int attn = 0, layers = 0;
  bool smooth = false, dotr = false, normalize = false, strip = false;
  double scale = 1, ln_eps = 1e-5;

  int m() const { return widths.back(); }
};

/// One parameter (rows, cols): ``groups`` blocks of columns, each padded to whole vectors.
template <class R>
struct Parameter {
  int rows = 0, cols = 0, groups = 1;
  size_t at = 0;        // where it starts in the flat array
  bool matrix = false;  // a factor of products, of which the transpose is needed too
  std::vector<R> padded_, turned_;

  Parameter() = default;
  Parameter(int rows, int cols, int groups, size_t at, bool matrix)
      : rows(rows), cols(cols), groups(groups), at(at), matrix(matrix) {}

  int group() const { return cols / groups; }
  int ld() const { return groups * padded<R>(group()); }
  int ld_turned() const { return padded<R>(rows); }
  size_t size() const { return size_t(rows) * cols; }
  const R* w() const { return padded_.data(); }
  /// Wᵀ (ld, rows), zero where padded.
  const R* turned() const { return turned_.data(); }

  int column(int c) const { return c / group() * padded<R>(group()) + c % group(); }

  void set(const R* flat) {
    padded_.assign(size_t(rows) * ld(), R(0));
    if (matrix) turned_.assign(size_t(ld()) * ld_turned(), R(0));
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) {
        const R x = flat[at + size_t(r) * cols + c];
        padded_[size_t(r) * ld() + column(c)] = x;
        if (matrix) turned_[size_t(column(c)) * ld_turned() + r] = x;
      }
  }

  void give(const R* gradient, R* flat) const {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) flat[at + size_t(r) * cols + c] += gradient[size_t(r) * ld() + column(c)];
  }
};

/// Where each parameter stands in the list of all.
struct Index {
  struct Layer {
    int weight = -1, bias = -1, idt = -1;
  };
  struct Attention {
    int w_in, b_in, w_out, b_out, gamma, beta;
  };
  int radial, residual;  // of the first layer: its weight on s, and how often s returns in its output (a constant)
  std::vector<Layer> layers;
  std::vector<Attention> attention;
};

template <class R>
struct Parameters {
  Shape shape;
  Index index;
  std::vector<Parameter<R>> all;
  size_t flat = 0;

  explicit Parameters(Shape s) : shape(std::move(s)) {
    const auto next = [&](int rows, int cols, int groups, bool matrix) {
      all.emplace_back(rows, cols, groups, flat, matrix);
      flat += all.back().size();
      return int(all.size()) - 1;
    };
    const auto matrix = [&](int rows, int cols, int groups = 1) { return next(rows, cols, groups, true); };
    const auto vector = [&](int cols, int groups = 1) { return next(1, cols, groups, false); };
    const auto& w = shape.widths;
    index.radial = vector(w[0]), index.residual = vector(w[0]);
    for (size_t k = 0; k < w.size(); ++k) {
      Index::Layer l;
      if (k > 0) l.weight = matrix(w[k - 1], w[k]), l.bias = vector(w[k]);
      if (shape.steps[k]) l.idt = vector(w[k]);
      index.layers.push_back(l);
    }
    const int m = shape.m(), a = shape.attn;
    for (int k = 0; k < shape.layers; ++k) {
      Index::Attention l;
      l.w_in = matrix(m, 3 * a, 3), l.b_in = vector(3 * a, 3), l.w_out = matrix(a, m), l.b_out = vector(m);
      l.gamma = vector(m), l.beta = vector(m);
      index.attention.push_back(l);
    }
  }

  void set(const R* numbers) {
    for (auto& p : all) p.set(numbers);
  }
  const Parameter<R>& operator[](int k) const { return all[k]; }
};

/// Gradients of all parameters, in the parameters' padded layout.
template <class R>
struct Gradients {
  std::vector<std::vector<R>> all;

  explicit Gradients(const Parameters<R>& p) {
    for (const auto& x : p.all) all.emplace_back(size_t(x.rows) * x.ld(), R(0));
  }
  R* operator[](int k) { return all[k].data(); }
  void clear() {
    for (auto& x : all) std::fill(x.begin(), x.end(), R(0));
  }
};

}  // namespace dpa1
