// A model's numbers in the arithmetic R, as they arrive by name from Python (kernels/cpu/library.py).
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "environment.h"
#include "network.h"
#include "series.h"

namespace dpa1 {

using Numbers = std::map<std::string, std::vector<double>>;

template <class R>
std::vector<R> cast(const std::vector<double>& v) {
  return std::vector<R>(v.begin(), v.end());
}

/// The first embedding layer, linear in [s, T_j, T_i]: its type part is a table over pairs t_i·ntypes + t_j.
template <class R>
struct FirstLayer {
  int width = 0;
  std::vector<R> w_s, pre, idt;   // (width), (ntypes², width), (width) or empty
  std::vector<R> r_s, r_types;    // the residual, where there is one: (width) and (ntypes², width), or empty
};

/// Coordinates of the embedding for one centre type and the types around it: g = spanᵀ φ. In them the first attention
/// layer is smaller; where there is no attention, so is what the energy net reads (docs/design/cpu-engine.md).
template <class R>
struct Basis {
  int r = 0;               // without the constant coordinate
  Weights<R> span;         // (r, M)
  std::vector<Series<R>> series;
  std::vector<const Series<R>*> of_type;  // (ntypes), null where the type was not around
  ReducedLayer<R> layer;   // with attention
  Layer<R> head;           // without: the energy net's first layer, which reads S of contraction.h and what follows the descriptor
};

template <class R>
struct Model {
  int ntypes, m, axis, nsel, extras;
  bool smooth, dotr, strip, vacuum;
  bool bfloat16;  // whether products take bfloat16 operands
  double nearest;  // Å; neighbours closer than this were not sampled by series and bases
  Smoothing smoothing;
  std::vector<double> davg, dstd, bias, out_bias, silent;  // (ntypes, 4) twice, (ntypes) three times
  FirstLayer<R> first;
  Network<R> embedding, fitting;
  std::vector<R> g_type;              // (ntypes², M) in strip mode
  std::vector<FullLayer<R>> attention;
  std::vector<R> b_out;               // (M) of the first attention layer
  std::vector<R> last_weight, tebd;   // of the energy net; (ntypes, ·) of what is appended to the descriptor, or empty
  R last_bias;
  std::vector<R> empty;               // (ntypes of the first atom, ntypes, 4, M): what one empty slot adds to X, or empty
  std::vector<std::unique_ptr<Series<R>>> series;       // (ntypes²)
  std::vector<const Series<R>*> series_of;              // the same, as what ``expand`` takes
  std::vector<std::unique_ptr<Basis<R>>> bases;

  explicit Model(const Numbers& in) {
    const auto has = [&](const std::string& name) { return in.count(name) > 0; };
    const auto get = [&](const std::string& name) -> const std::vector<double>& {
      const auto found = in.find(name);
      if (found == in.end()) throw std::invalid_argument("missing " + name);
      return found->second;
    };
    const auto entry = [&](const std::string& name, size_t k) {
      if (get(name).size() <= k) throw std::invalid_argument("too few numbers: " + name);
      return get(name)[k];
    };
    const auto one = [&](const std::string& name) { return entry(name, 0); };
    const auto maybe = [&](const std::string& name) { return has(name) ? cast<R>(get(name)) : std::vector<R>(); };
    ntypes = int(one("ntypes")), m = int(one("m")), axis = int(one("axis")), nsel = int(one("nsel"));
    extras = int(one("extras"));
    smooth = one("smooth") != 0, dotr = one("dotr") != 0, strip = one("strip") != 0, vacuum = one("vacuum") != 0;
    bfloat16 = one("bfloat16") != 0;
    if (bfloat16 && !Bfloat16Products::available()) throw std::invalid_argument("this build has no bfloat16 products");
    nearest = one("nearest");
    smoothing = {one("rcut_smth"), one("rcut"), one("protection")};
    davg = get("davg"), dstd = get("dstd"), bias = get("bias"), out_bias = get("out_bias"), silent = get("silent");
    const auto network = [&](const std::string& name) {
      Network<R> net;
      net.activation.kind = Activation::of_code(one(name + ".activation"));
      net.activation.threshold = entry(name + ".activation", 1);
      for (int k = 0; has(name + "." + std::to_string(k) + ".weight"); ++k) {
        const std::string at = name + "." + std::to_string(k);
        Layer<R> l;
        l.bias = cast<R>(get(at + ".bias")), l.idt = maybe(at + ".idt");
        l.n_out = int(l.bias.size()), l.n_in = int(get(at + ".weight").size() / l.bias.size());
        l.kind = residual(l.n_in, l.n_out);
        l.weight = {cast<R>(get(at + ".weight")), l.n_out, bfloat16};
        net.layers.push_back(std::move(l));
      }
      return net;
    };
    embedding = network("embedding"), fitting = network("fitting");
    first.w_s = cast<R>(get("first.w_s")), first.pre = cast<R>(get("first.pre")), first.idt = maybe("first.idt");
    first.r_s = maybe("first.r_s"), first.r_types = maybe("first.r_types");
    first.width = int(first.w_s.size());
    g_type = maybe("g_type"), tebd = maybe("tebd"), empty = maybe("empty");
    last_weight = cast<R>(get("last.weight")), last_bias = R(one("last.bias"));
    for (int k = 0; has("attention." + std::to_string(k) + ".weight"); ++k) {
      const std::string at = "attention." + std::to_string(k);
      FullLayer<R> l;
      l.m = m, l.depth = int(one(at + ".depth")), l.rest = int(one(at + ".rest"));
      l.normalize = one("normalize") != 0, l.scale = R(one("scale"));
      l.weight = {cast<R>(get(at + ".weight")), l.rows(), bfloat16, l.kept()}, l.bias = cast<R>(get(at + ".bias"));
      l.p_row = cast<R>(get(at + ".p_row")), l.p_one = R(one(at + ".p_one"));
      l.norm = {cast<R>(get(at + ".gamma")), cast<R>(get(at + ".beta")), R(one("ln_eps"))};
      attention.push_back(std::move(l));
    }
    if (!attention.empty()) b_out = cast<R>(get("b_out"));
    series.resize(size_t(ntypes) * ntypes);
    series_of.resize(size_t(ntypes) * ntypes);
  }

  /// A basis from its numbers. With attention: a, w_y; without: head.
  std::unique_ptr<Basis<R>> make_basis(const Numbers& in) const {
    auto b = std::make_unique<Basis<R>>();
    const auto& types = in.at("types");
    const double* about = in.at("series").data();  // lo, hi, sets, terms
    const int r = int(in.at("span").size() / m), sets = int(about[2]), terms = int(about[3]);
    b->r = r, b->span = {cast<R>(in.at("span")), m, bfloat16};
    b->series.reserve(types.size());
    b->of_type.resize(ntypes);
    const size_t each = size_t(sets) * terms * r;
    for (size_t k = 0; k < types.size(); ++k) {
      b->series.emplace_back(about[0], about[1], sets, terms, r, in.at("c").data() + k * each,
                             in.at("slope").data() + k * each);
      b->of_type[int(types[k])] = &b->series.back();
    }
    if (attention.empty()) {
      const Layer<R>& full = fitting.layers.at(0);
      // In coordinates large entries cancel, which bfloat16 operands do not; it is small enough without them.
      b->head = {int(in.at("head").size() / full.n_out), full.n_out, Residual::none, true,
                 {cast<R>(in.at("head")), full.n_out, false}, full.bias, full.idt};
      return b;
    }
    const FullLayer<R>& full = attention[0];
    ReducedLayer<R>& l = b->layer;
    l.m = m, l.r = r + 1, l.normalize = full.normalize, l.scale = full.scale, l.norm = full.norm;
    l.a = {cast<R>(in.at("a")), l.rows(), bfloat16}, l.w_y = {cast<R>(in.at("w_y")), m, bfloat16};
    return b;
  }
};

}  // namespace dpa1
