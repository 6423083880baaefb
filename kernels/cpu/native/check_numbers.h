// Whether the numbers of a file belong together: what model.h, series.h and attention.h read must be there, no more, no less.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "model.h"
#include "prepared_file.h"

namespace dpa1 {

class CheckNumbers {
 public:
  explicit CheckNumbers(const Numbers& in) : in_(in) {
    for (const auto& [name, values] : in)
      for (double v : values)
        if (!std::isfinite(v)) throw BadFile("has a number in " + name + " that is not finite; compile it again");
  }

  /// Of what belongs to a model that was checked.
  CheckNumbers(const Numbers& in, const CheckNumbers& model) : CheckNumbers(in) {
    m_ = model.m_, layers_ = model.layers_, after_ = model.after_, head_ = model.head_, axis_ = model.axis_;
  }

  /// All of a model but its series and bases.
  void model() {
    ntypes_ = whole("ntypes", 1, 4096), m_ = whole("m", 1, 1 << 14);
    axis_ = whole("axis", 1, m_);
    const size_t extras = whole("extras", 0, 1 << 14), pairs = ntypes_ * ntypes_;
    whole("nsel", 0, 1 << 24);
    for (const char* name : {"smooth", "dotr", "strip", "vacuum", "normalize"}) whole(name, 0, 1);
    for (const char* name : {"nearest", "rcut", "rcut_smth", "protection", "scale", "ln_eps"}) size(name, 1);
    if (!(value("rcut_smth") >= 0 && value("rcut") > value("rcut_smth"))) bad("rcut");
    for (const char* name : {"davg", "dstd"}) size(name, 4 * ntypes_);
    for (const char* name : {"bias", "out_bias", "silent"}) size(name, ntypes_);
    const size_t first = count("first.w_s");
    if (!first) bad("first.w_s");
    size("first.pre", pairs * first), perhaps("first.idt", first);
    if (perhaps("first.r_s", first) != perhaps("first.r_types", pairs * first)) bad("first.r_types");
    if (network("embedding", first) != m_) bad("embedding");
    if (value("strip") != 0) size("g_type", pairs * m_);
    perhaps("empty", pairs * 4 * m_);
    const size_t tebd = count("tebd");
    if (tebd % ntypes_) bad("tebd");
    after_ = tebd / ntypes_ + extras, head_ = count("fitting.0.bias");
    size("last.weight", network("fitting", m_ * axis_ + after_)), size("last.bias", 1);
    for (layers_ = 0; in_.count("attention." + std::to_string(layers_) + ".weight"); ++layers_) attention(layers_);
    if (layers_) size("b_out", m_);
  }

  /// The series of a pair of types: about (lo, hi, sets, terms), c and slope. ``width``: of c.
  void series(const std::string& at, const std::string& about, size_t width, size_t copies) {
    const std::vector<double>& a = entry(about);
    if (a.size() != 4 || !(a[1] > a[0])) bad(about);
    const size_t sets = value("strip") != 0 && value("smooth") != 0 ? 2 : 1;
    if (a[2] != double(sets) || !(a[3] >= 1 && a[3] <= 4096) || a[3] != std::floor(a[3])) bad(about);
    for (const char* name : {"c", "slope"}) size(at + name, copies * sets * size_t(a[3]) * width);
  }

  /// A basis around one type of centre, for the first layer of attention or of the energy net; its types are ``types``.
  void basis(const std::string& at, const std::vector<double>& types) {
    if (entry(at + "types") != types) bad(at + "types");
    const size_t span = count(at + "span"), r = span / m_;
    if (!r || r > m_ || span % m_) bad(at + "span");
    series(at, at + "series", r, types.size());
    if (layers_)
      size(at + "a", (r + 1) * (r + 1) * (value("normalize") != 0 ? 4 : 1)), size(at + "w_y", (r + 1) * m_);
    else if (!head_)
      bad(at + "types");
    else
      size(at + "head", (inputs(r, std::min(r, axis_)) + after_) * head_);
  }

  const std::vector<double>& entry(const std::string& name) const {
    const auto found = in_.find(name);
    if (found == in_.end()) throw BadFile("lacks " + name + "; compile it again");
    return found->second;
  }
  double value(const std::string& name) const {
    size(name, 1);
    return entry(name)[0];
  }
  /// A whole number from ``least`` to ``most``.
  size_t whole(const std::string& name, size_t least, size_t most) const {
    const double v = value(name);
    if (!(v >= double(least) && v <= double(most) && v == std::floor(v))) bad(name);
    return size_t(v);
  }
  /// The number of entries under a name must be this.
  void size(const std::string& name, size_t wanted) const {
    if (entry(name).size() != wanted) bad(name);
  }
  /// The same, unless there is nothing of that name; whether there is.
  bool perhaps(const std::string& name, size_t wanted) const {
    if (!in_.count(name)) return false;
    size(name, wanted);
    return true;
  }

 private:
  /// S of contraction.h in r coordinates, of which ``axis`` span the axis.
  static size_t inputs(size_t r, size_t axis) { return axis * (axis + 1) / 2 + (r - axis) * axis; }

  [[noreturn]] static void bad(const std::string& name) {
    throw BadFile("has numbers in " + name + " that do not fit the rest of it; compile it again");
  }

  size_t count(const std::string& name) const {
    const auto found = in_.find(name);
    return found == in_.end() ? 0 : found->second.size();
  }

  /// Layers of a network from ``width`` inputs on; the width of its output.
  size_t network(const std::string& name, size_t width) const {
    size(name + ".activation", 2);
    for (int k = 0; in_.count(name + "." + std::to_string(k) + ".weight"); ++k) {
      const std::string at = name + "." + std::to_string(k);
      const size_t out = count(at + ".bias");
      if (!out) bad(at + ".bias");
      size(at + ".weight", width * out), perhaps(at + ".idt", out);
      width = out;
    }
    return width;
  }

  void attention(size_t k) const {
    const std::string at = "attention." + std::to_string(k) + ".";
    const size_t depth = whole(at + "depth", 1, m_ + 1), rest = whole(at + "rest", 0, 1 << 14);
    const size_t rows = 2 * depth + rest + m_ + (value("normalize") != 0 ? m_ : 0);
    size(at + "weight", m_ * rows), size(at + "bias", rows), size(at + "p_one", 1);
    for (const char* name : {"p_row", "gamma", "beta"}) size(at + name, m_);
  }

  const Numbers& in_;
  size_t ntypes_ = 0, m_ = 0, layers_ = 0, axis_ = 0;
  size_t after_ = 0, head_ = 0;  // inputs of the energy net after the descriptor, outputs of its first layer
};

}  // namespace dpa1
