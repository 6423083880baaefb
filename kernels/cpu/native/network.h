// Resnet layers forward and backward; columns are whatever is evaluated side by side (neighbours, or atoms).
//
// Formula: reference.resnet_layer. y = act(x W + b) idt, + x where widths match, + [x, x] where the width doubles.
#pragma once

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "arena.h"
#include "gemm.h"

namespace dpa1 {

/// For a switch over options that has met none that it knows.
[[noreturn]] inline void unknown(const char* what, double value) {
  throw std::invalid_argument(std::string(what) + " " + std::to_string(value) + " is not known to the CPU engine");
}

/// An activation function and its slope; names are DeePMD-kit's.
struct Activation {
  enum Kind { tanh_, relu, relu6, softplus, sigmoid_, silu, gelu, silut, linear } kind = linear;
  double threshold = 3.0;

  /// By the code that kernels/cpu/numbers.py has for it.
  static Kind of_code(double code) {
    if (!(code >= tanh_ && code <= linear && code == std::floor(code))) unknown("activation function", code);
    return Kind(int(code));
  }

  /// act(z) in place of z, and its slope, for n numbers (whole vectors).
  template <class R>
  void apply(R* z, R* slope, size_t n) const {
    for (size_t i = 0; i < n; i += Lanes<R>::W) {
      Vec<R> d;
      const Vec<R> y = at<R>(load(z + i), d);
      store(z + i, y);
      store(slope + i, d);
    }
  }

  /// act(x) and its slope. T is a vector, or a vector of dual numbers: then both come with their own derivatives.
  template <class R, class T = Vec<R>>
  T at(T x, T& d) const {
    const T one = number<T>(R(1)), none = number<T>(R(0));
    const Vec<R> v = value_of(x);
    switch (kind) {
      case tanh_: {
        const T t = tanh<R>(x);
        d = one - t * t;
        return t;
      }
      case relu:
        d = select(v > 0, one, none);
        return select(v < 0, none, x);  // NaN stays NaN, here and below
      case relu6:
        d = select(v > 0, select(v < 6, one, none), none);
        return select(v > 6, number<T>(R(6)), select(v < 0, none, x));
      case softplus:
        d = select(v > 20, one, sigmoid<R>(x));
        return select(v > 20, x, log_one_plus<R>(exp(x)));
      case sigmoid_: {
        const T y = sigmoid<R>(x);
        d = y * (one - y);
        return y;
      }
      case silu:
        return silu_at<R>(x, d);
      case gelu: {
        const R a = R(0.79788456080286535588), b = R(0.044715);
        const T t = tanh<R>((x + x * x * x * b) * a);
        d = (one + t) * R(0.5) + x * R(0.5) * (one - t * t) * (one + x * x * (R(3) * b)) * a;
        return x * (one + t) * R(0.5);
      }
      case silut: {
        const R s = R(1.0 / (1.0 + std::exp(-threshold))), slope = s + R(threshold) * s * (R(1) - s);
        T inner;
        const T below = silu_at<R>(x, inner), t = tanh<R>((x - R(threshold)) * slope);
        d = select(v >= R(threshold), (one - t * t) * slope, inner);
        return select(v >= R(threshold), t + R(threshold) * s, below);
      }
      case linear:
        d = one;
        return x;
    }
    unknown("activation function", kind);
  }

 private:
  template <class R, class T>
  static T silu_at(T x, T& d) {
    const T s = sigmoid<R>(x);
    d = s * (R(1) + x * (R(1) - s));
    return x * s;
  }
};

/// How a layer's input returns in its output: not at all, as it is, or twice.
enum class Residual { none, once, twice };

inline Residual residual(int n_in, int n_out) {
  return n_out == n_in ? Residual::once : n_out == 2 * n_in ? Residual::twice : Residual::none;
}

template <class R>
struct Layer {
  int n_in = 0, n_out = 0;
  Residual kind = Residual::none;
  bool exact = false;         // whether its products take no bfloat16 operands
  Weights<R> weight;          // (n_in, n_out)
  std::vector<R> bias, idt;   // (n_out) zeros where there is none, (n_out) or empty
};

template <class R>
struct Network {
  std::vector<Layer<R>> layers;
  Activation activation;

  /// What the backward needs of one layer: the slope of its activation, time step included.
  using Saved = std::vector<R*>;

  /// Adds x (n_in, n) to y (n_out, n) as the layer's residual says.
  static void add_residual(const Layer<R>& layer, const R* x, R* y, int n) {
    const size_t size = size_t(layer.n_in) * n;
    if (layer.kind == Residual::none) return;
    for (int copy = 0; copy < (layer.kind == Residual::twice ? 2 : 1); ++copy, y += size)
      for (size_t i = 0; i < size; i += Lanes<R>::W) store(y + i, load(y + i) + load(x + i));
  }

  /// Activation and time step in place of z (n_out, n); the slope of both into d.
  void activate(const Layer<R>& layer, R* z, R* d, int n) const {
    activation.apply(z, d, size_t(layer.n_out) * n);
    if (layer.idt.empty()) return;
    for (int m = 0; m < layer.n_out; ++m)
      for (int i = 0; i < n; i += Lanes<R>::W) {
        store(z + m * n + i, load(z + m * n + i) * layer.idt[m]);
        store(d + m * n + i, load(d + m * n + i) * layer.idt[m]);
      }
  }

  /// x (n_in, n) to y (n_out, n), n whole vectors; y lies in the arena. ``head``: stands in for the first layer.
  R* forward(const R* x, int n, Saved& saved, Arena& arena, const Layer<R>* head = nullptr) const {
    R* y = const_cast<R*>(x);
    for (size_t k = 0; k < layers.size(); ++k) {
      const Layer<R>& l = k == 0 && head ? *head : layers[k];
      R *z = arena.take<R>(size_t(l.n_out) * n), *d = arena.take<R>(size_t(l.n_out) * n);
      const Exact exact(l.exact);
      gemm<R>(l.n_out, n, l.n_in, l.weight.transposed(), y, n, z, n, Start::zero, l.bias.data());
      activate(l, z, d, n);
      add_residual(l, y, z, n);
      saved.push_back(d);
      y = z;
    }
    return y;
  }

  /// dE/dy (n_out, n), overwritten, to dE/dx (wanted, n), the first rows of it.
  R* backward(R* gy, int n, const Saved& saved, Arena& arena, int wanted, const Layer<R>* head = nullptr) const {
    for (size_t k = layers.size(); k-- > 0;) {
      const Layer<R>& l = k == 0 && head ? *head : layers[k];
      const int rows = k == 0 ? wanted : l.n_in;
      R* gx = arena.take<R>(size_t(rows) * n);
      const Residual kind = l.kind;
      const Exact exact(l.exact);
      const size_t kept = size_t(rows) * n, in = size_t(l.n_in) * n;
      if (kind == Residual::once) std::memcpy(gx, gy, kept * sizeof(R));
      if (kind == Residual::twice)
        for (size_t i = 0; i < kept; i += Lanes<R>::W) store(gx + i, load(gy + i) + load(gy + in + i));
      const R* d = saved[k];
      for (size_t i = 0; i < size_t(l.n_out) * n; i += Lanes<R>::W) store(gy + i, load(gy + i) * load(d + i));
      gemm<R>(rows, n, l.n_out, l.weight.straight(), gy, n, gx, n,
              kind == Residual::none ? Start::zero : Start::add);
      gy = gx;
    }
    return gy;
  }
};

}  // namespace dpa1
