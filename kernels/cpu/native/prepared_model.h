// A model from a prepared file, in the compiled engine: what Python's CpuEvaluator does for a batch, without Python.
#pragma once

#include <memory>

#include "check_numbers.h"
#include "include/dpa1_fast.h"
#include "library.h"

namespace dpa1 {

/// A failure of the compiled engine, as dpa1_fast.h has it.
struct Failure : std::runtime_error {
  int status;
  Failure(int status, const std::string& what) : std::runtime_error(what), status(status) {}
};

struct PreparedModel {
  int ntypes = 0, nsel = 0, threads = 1;
  double cutoff = 0;
  bool bfloat16 = false, order_dependent = false;
  uint32_t checksum = 0;
  std::string producer;
  std::vector<std::string> names;             // (ntypes)
  std::vector<double> fills, interacts;       // (ntypes²) whether a pair takes a slot of sel, and acts
  std::vector<double> active;                 // (ntypes) whether an atom has an energy of its own
  std::vector<uint8_t> compiled;              // (ntypes) whether the file was compiled for it
  std::vector<int32_t> basis;                 // (ntypes) by the type of a centre, or −1
  std::vector<double> fparam, aparam, case_embd, default_fparam;  // avg and 1/std one after the other; the rest as they are
  std::unique_ptr<void, void (*)(void*)> engine{nullptr, dpa1_free};

  PreparedModel(PreparedFile file, const std::string& precision, int n_threads) : threads(n_threads) {
    const CheckNumbers about(file.numbers);
    const auto take = [&](const char* name) -> const std::vector<double>& { return about.entry(name); };
    Numbers model = under(file.numbers, "model.");
    CheckNumbers check(model);
    check.model();
    ntypes = int(check.value("ntypes")), nsel = int(check.value("nsel")), cutoff = check.value("rcut");
    order_dependent = model.count("empty") > 0;
    checksum = file.checksum, producer = file.texts["producer"];
    names = lines(file.texts["type_map"]);
    if (names.size() != size_t(ntypes)) throw BadFile("does not name its types; compile it again");
    for (const char* name : {"fills", "interacts"}) about.size(name, size_t(ntypes) * ntypes);
    about.size("active", ntypes);
    fills = take("fills"), interacts = take("interacts"), active = take("active");
    fparam = take("fparam"), aparam = take("aparam"), case_embd = take("case_embd");
    default_fparam = take("default_fparam");
    if (fparam.size() % 2 || aparam.size() % 2 ||
        double(fparam.size() / 2 + aparam.size() / 2 + case_embd.size()) != check.value("extras") ||
        (!default_fparam.empty() && default_fparam.size() != fparam.size() / 2))
      throw BadFile("has parameters that do not fit its network; compile it again");
    compiled.assign(ntypes, 0);
    const std::vector<double> types = take("compiled");
    for (double t : types) {
      if (!(t >= 0 && t < ntypes && t == std::floor(t)) || compiled[size_t(t)])
        throw BadFile("was compiled for types that it does not have; compile it again");
      compiled[size_t(t)] = 1;
    }
    const Numbers own = under(file.numbers, precision + ".");
    if (own.empty())
      throw Failure(DPA1_FAST_UNAVAILABLE, "was not compiled for precision " + precision + "; compile it with --precision " + precision);
    bfloat16 = precision == "bfloat16";
    build(model, own, check, types, precision == "float64");
  }

  int extras() const { return int(fparam.size() / 2 + aparam.size() / 2 + case_embd.size()); }

 private:
  static Numbers under(const Numbers& all, const std::string& prefix) {
    Numbers out;
    for (auto it = all.lower_bound(prefix); it != all.end() && it->first.compare(0, prefix.size(), prefix) == 0; ++it)
      out[it->first.substr(prefix.size())] = it->second;
    return out;
  }

  static std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> out(1);
    for (char c : text)
      if (c == '\n')
        out.emplace_back();
      else
        out.back() += c;
    return out;
  }

  static void done(int outcome) {
    if (outcome > 0) throw Failure(outcome, dpa1_error());
  }

  void put(const Numbers& numbers) {
    for (const auto& [name, values] : numbers)
      done(dpa1_put(engine.get(), name.c_str(), values.data(), int64_t(values.size())));
  }

  void build(Numbers& model, const Numbers& own, const CheckNumbers& shape, const std::vector<double>& types, bool wide) {
    engine.reset(dpa1_new(wide));
    if (!engine) throw std::bad_alloc();
    const size_t m = size_t(shape.value("m"));
    model["bfloat16"] = {double(bfloat16)};
    Numbers all = own;
    for (const char* name : {"strip", "smooth", "normalize"}) all[name] = model[name];
    put(model);
    done(dpa1_build(engine.get()));
    CheckNumbers check(all, shape);
    for (double i : types)
      for (double j : types) {
        const int pair = int(i) * ntypes + int(j);
        const std::string at = "series." + std::to_string(pair) + ".";
        if (!own.count(at + "about")) continue;  // its embedding is evaluated as a net
        check.series(at, at + "about", m, 1);
        const std::vector<double>& about = own.at(at + "about");
        done(dpa1_series(engine.get(), pair, about[0], about[1], int(about[2]), int(about[3]), own.at(at + "c").data(),
                         own.at(at + "slope").data()));
      }
    basis.assign(ntypes, -1);
    for (double i : types) {
      const std::string at = "basis." + std::to_string(int(i)) + ".";
      const Numbers one = under(own, at);
      if (one.empty()) continue;
      check.basis(at, types);
      put(one);
      const int index = dpa1_basis(engine.get());
      done(-index);
      basis[size_t(i)] = index;
    }
  }
};

}  // namespace dpa1
