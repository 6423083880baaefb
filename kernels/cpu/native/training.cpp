// The C interface of training, as kernels/cpu/training.py calls it. A call that fails leaves its reason in dpa1_error().
#include "training.h"

#include "outcome.h"

using namespace dpa1;

namespace {

/// A model's parameters, and the pass over a batch that is under way.
struct Training {
  virtual ~Training() = default;
  virtual int64_t size() const = 0;
  virtual void set(const void* flat) = 0;
  virtual void forward(const void* request, int slopes, int threads, void* const* x) = 0;
  virtual void backward_inputs(const void* const* gx, void* const* out) = 0;
  virtual void backward_parameters(const void* const* gx, void* flat, void* const* tables) = 0;
  virtual void forget() = 0;
};

template <class R>
struct Typed final : Training {
  Parameters<R> parameters;
  Memory memory;
  std::unique_ptr<Pass<R, 1>> plain;
  std::unique_ptr<Pass<R, 2>> dual;

  explicit Typed(const Shape& s) : parameters(s) {}

  int64_t size() const override { return int64_t(parameters.flat); }
  void set(const void* flat) override { parameters.set(static_cast<const R*>(flat)); }

  void forward(const void* request, int slopes, int threads, void* const* x) override {
    const auto& q = *static_cast<const TrainingRequest<R>*>(request);
    forget();
    R* out[2] = {static_cast<R*>(x[0]), static_cast<R*>(x[1])};
    if (slopes) {
      dual = std::make_unique<Pass<R, 2>>(parameters, q, threads, memory);
      dual->forward(out);
    } else {
      plain = std::make_unique<Pass<R, 1>>(parameters, q, threads, memory);
      plain->forward(out);
    }
  }

  void backward_inputs(const void* const* gx, void* const* out) override {
    if (!plain) throw std::logic_error("no forward pass of plain numbers is under way");
    const R* g[1] = {static_cast<const R*>(gx[0])};
    R* to[3] = {static_cast<R*>(out[0]), static_cast<R*>(out[1]), static_cast<R*>(out[2])};
    plain->backward(g, to);
    forget();
  }

  void backward_parameters(const void* const* gx, void* flat, void* const* tables) override {
    if (!dual) throw std::logic_error("no forward pass of dual numbers is under way");
    const R* g[2] = {static_cast<const R*>(gx[0]), static_cast<const R*>(gx[1])};
    R* to[3] = {static_cast<R*>(tables[0]), static_cast<R*>(tables[1]), static_cast<R*>(tables[2])};
    dual->backward(g, static_cast<R*>(flat), to);
    forget();
  }

  void forget() override { plain.reset(), dual.reset(); }
};

/// From [activation, threshold, attn, layers, smooth, dotr, normalize, strip, scale, ln_eps, n, widths…, steps…].
Shape shape_of(const double* about, int64_t count) {
  if (count < 11 || count != 11 + 2 * int64_t(about[10])) throw std::invalid_argument("a shape of the wrong length");
  Shape s;
  s.activation.kind = Activation::of_code(about[0]), s.activation.threshold = about[1];
  s.attn = int(about[2]), s.layers = int(about[3]);
  s.smooth = about[4], s.dotr = about[5], s.normalize = about[6], s.strip = about[7];
  s.scale = about[8], s.ln_eps = about[9];
  const int n = int(about[10]);
  for (int k = 0; k < n; ++k) s.widths.push_back(int(about[11 + k])), s.steps.push_back(int(about[11 + n + k]));
  if (n == 0) throw std::invalid_argument("an embedding without layers");
  return s;
}

}  // namespace

extern "C" {

/// Null where it cannot be made.
void* dpa1_training_new(int is_double, const double* about, int64_t count) {
  Training* t = nullptr;
  guarded([&] {
    const Shape s = shape_of(about, count);
    t = is_double ? static_cast<Training*>(new Typed<double>(s)) : static_cast<Training*>(new Typed<float>(s));
  });
  return t;
}

void dpa1_training_free(void* t) { delete static_cast<Training*>(t); }

int64_t dpa1_training_size(void* t) { return static_cast<Training*>(t)->size(); }

int dpa1_training_set(void* t, const void* flat) {
  return guarded([&] { static_cast<Training*>(t)->set(flat); });
}

int dpa1_training_forward(void* t, const void* request, int slopes, int threads, void* const* x) {
  return guarded([&] { static_cast<Training*>(t)->forward(request, slopes, threads, x); });
}

int dpa1_training_backward_inputs(void* t, const void* const* gx, void* const* out) {
  return guarded([&] { static_cast<Training*>(t)->backward_inputs(gx, out); });
}

int dpa1_training_backward_parameters(void* t, const void* const* gx, void* flat, void* const* tables) {
  return guarded([&] { static_cast<Training*>(t)->backward_parameters(gx, flat, tables); });
}

void dpa1_training_forget(void* t) { static_cast<Training*>(t)->forget(); }

}  // extern "C"
