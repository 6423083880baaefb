// dpa1_fast.h over the compiled engine.
#include "include/dpa1_fast.h"

#include "neighborhood.h"

using namespace dpa1;

namespace {

thread_local std::string error;

// What kernels/cpu/library.py says of a chunk and of bfloat16's holds here too; a test compares them.
constexpr int64_t CHUNK_BYTES = 5 << 20, BFLOAT16_CHUNK_BYTES = 2 << 20;
constexpr int CHUNK_ATOMS = 32;

template <class F>
int guarded(F f) {
  try {
    f();
    return DPA1_FAST_DONE;
  } catch (const Failure& e) {
    error = e.what();
    return e.status;
  } catch (const BadFile& e) {
    error = e.what();
    return DPA1_FAST_BAD_FILE;
  } catch (const std::bad_alloc&) {
    error = "out of memory";
    return DPA1_FAST_OUT_OF_MEMORY;
  } catch (const std::exception& e) {
    error = e.what();
    return DPA1_FAST_FAILED;
  } catch (...) {
    error = "failed for a reason that is not known";
    return DPA1_FAST_FAILED;
  }
}

/// A caller's structure, if it is one of this version of the header.
template <class T>
T& same_version(T* given, const char* name) {
  if (!given || given->size != sizeof(T))
    throw Failure(DPA1_FAST_BAD_ARGUMENT,
                  std::string(name) + " is missing, its size is not set, or it is of another version of dpa1_fast.h");
  return *given;
}

}  // namespace

struct dpa1_fast_model {
  PreparedModel prepared;
  Neighborhood neighborhood;
  std::vector<double> extras, energy, gradient, force;
  std::vector<int32_t> basis;

  void evaluate(const dpa1_fast_atoms& a, dpa1_fast_results& out) {
    Neighborhood& h = neighborhood;
    h.gather(prepared, a, out);
    out.over = h.over, out.most = h.most;
    parameters(a);
    const size_t edges = size_t(h.first_edge.back());
    energy.assign(size_t(a.atoms), 0.0), force.assign(3 * size_t(a.atoms), 0.0);
    if (gradient.size() < 3 * edges) gradient.resize(3 * edges + edges);
    basis.resize(h.center.size());
    for (size_t k = 0; k < basis.size(); ++k) basis[k] = prepared.basis[size_t(h.type[size_t(h.center[k])])];
    const int64_t offset[2] = {0, a.atoms};
    double virial[9] = {};
    const Request q = {
        int64_t(h.center.size()), h.center.data(), h.type.data(), h.first_edge.data(), h.neighbor.data(), h.vector.data(),
        h.n_filled.data(), h.first_type.data(), extras.data(), basis.data(), energy.data(), gradient.data(), a.atoms, 1,
        offset, force.data(), virial,
    };
    const int64_t chunk = prepared.bfloat16 ? BFLOAT16_CHUNK_BYTES : CHUNK_BYTES;
    const int outcome = dpa1_evaluate(prepared.engine.get(), &q, prepared.threads, chunk, CHUNK_ATOMS);
    if (outcome) throw Failure(outcome, dpa1_error());
    finite(a, out);
    add(a, q, out);
  }

 private:
  /// What the energy net reads besides the descriptor: [fparam | aparam | case_embd] of every centre.
  void parameters(const dpa1_fast_atoms& a) {
    const PreparedModel& m = prepared;
    const size_t nf = m.fparam.size() / 2, na = m.aparam.size() / 2, width = size_t(m.extras());
    const double* frame = a.frame_parameters ? a.frame_parameters : m.default_fparam.empty() ? nullptr : m.default_fparam.data();
    if (nf && !frame)
      throw Failure(DPA1_FAST_BAD_ARGUMENT, "this model needs " + std::to_string(nf) + " frame parameters");
    if (na && !a.atomic_parameters)
      throw Failure(DPA1_FAST_BAD_ARGUMENT, "this model needs " + std::to_string(na) + " atomic parameters of every atom");
    extras.resize(neighborhood.center.size() * width);
    double* to = extras.data();
    for (int64_t i : neighborhood.center) {
      for (size_t k = 0; k < nf; ++k) *to++ = (frame[k] - m.fparam[k]) * m.fparam[nf + k];
      for (size_t k = 0; k < na; ++k) *to++ = (a.atomic_parameters[size_t(i) * na + k] - m.aparam[k]) * m.aparam[na + k];
      to = std::copy(m.case_embd.begin(), m.case_embd.end(), to);
    }
  }

  void finite(const dpa1_fast_atoms& a, dpa1_fast_results& out) const {
    const auto refuse = [&](int64_t i) {
      out.atom = i;
      throw Failure(DPA1_FAST_NOT_FINITE, "atom " + std::to_string(i) + " has an energy or a force that is not finite: atoms are far too close together");
    };
    for (int64_t i : neighborhood.center)
      if (!std::isfinite(energy[size_t(i)])) refuse(i);
    for (int64_t i = 0; i < a.atoms; ++i)
      for (int c = 0; c < 3; ++c)
        if (!std::isfinite(force[size_t(3 * i + c)])) refuse(i);
  }

  void add(const dpa1_fast_atoms& a, const Request& q, dpa1_fast_results& out) const {
    out.energy = 0;
    for (int64_t i : neighborhood.center) out.energy += energy[size_t(i)];
    std::copy_n(q.virial, 9, out.virial);
    if (out.energies)
      for (int64_t i : neighborhood.center) out.energies[i] += energy[size_t(i)];
    if (out.forces)
      for (size_t k = 0; k < force.size(); ++k) out.forces[k] += force[k];
    if (!out.atomic_virials) return;
    for (int64_t e = 0; e < q.first_edge[a.atoms]; ++e) {
      const double *g = q.gradient + 3 * e, *d = q.vector + 3 * e;
      double* w = out.atomic_virials + 9 * q.neighbor[e];
      for (int x = 0; x < 3; ++x)
        for (int y = 0; y < 3; ++y) w[3 * x + y] -= g[x] * d[y];
    }
  }
};

extern "C" {

int dpa1_fast_version(void) { return DPA1_FAST_VERSION; }

const char* dpa1_fast_error(void) { return error.c_str(); }

int dpa1_fast_load(const char* path, const dpa1_fast_options* options, dpa1_fast_model** model) {
  return guarded([&] {
    if (!path || !model) throw Failure(DPA1_FAST_BAD_ARGUMENT, "path and model must be given");
    *model = nullptr;
    dpa1_fast_options chosen = {sizeof(dpa1_fast_options), nullptr, 1};
    if (options) chosen = same_version(options, "dpa1_fast_options");
    const std::string precision = chosen.precision ? chosen.precision : "float64";
    if (precision != "float64" && precision != "float32" && precision != "bfloat16")
      throw Failure(DPA1_FAST_UNAVAILABLE, "there is no precision " + precision + "; available: float64, float32, bfloat16");
    if (precision == "bfloat16" && !Bfloat16Products::available())
      throw Failure(DPA1_FAST_UNAVAILABLE, "precision bfloat16 needs a processor with AVX512-BF16; use float32");
    if (chosen.threads < 0 || chosen.threads > 1024)
      throw Failure(DPA1_FAST_BAD_ARGUMENT, std::to_string(chosen.threads) + " threads cannot be had");
    try {
      *model = new dpa1_fast_model{PreparedModel(PreparedFile(path), precision, std::max(1, chosen.threads)), {}, {}, {}, {}, {}, {}};
    } catch (const BadFile& e) {
      throw BadFile(std::string(path) + " " + e.what());
    } catch (const Failure& e) {
      throw Failure(e.status == DPA1_FAST_BAD_ARGUMENT ? int(DPA1_FAST_BAD_FILE) : e.status, std::string(path) + " " + e.what());
    }
  });
}

void dpa1_fast_free(dpa1_fast_model* model) { delete model; }

int dpa1_fast_describe(const dpa1_fast_model* model, dpa1_fast_info* info) {
  return guarded([&] {
    if (!model) throw Failure(DPA1_FAST_BAD_ARGUMENT, "model must be given");
    const PreparedModel& m = model->prepared;
    same_version(info, "dpa1_fast_info") = {
        sizeof(dpa1_fast_info), m.cutoff, m.ntypes, m.nsel, int32_t(m.fparam.size() / 2), int32_t(m.aparam.size() / 2),
        !m.default_fparam.empty(), m.order_dependent, m.checksum, m.producer.c_str(),
    };
  });
}

const char* dpa1_fast_type_name(const dpa1_fast_model* model, int32_t type) {
  if (!model || type < 0 || type >= model->prepared.ntypes) return nullptr;
  return model->prepared.names[size_t(type)].c_str();
}

int dpa1_fast_has_type(const dpa1_fast_model* model, int32_t type) {
  return model && type >= 0 && type < model->prepared.ntypes && model->prepared.compiled[size_t(type)];
}

int dpa1_fast_evaluate(dpa1_fast_model* model, const dpa1_fast_atoms* atoms, dpa1_fast_results* results) {
  return guarded([&] {
    if (!model) throw Failure(DPA1_FAST_BAD_ARGUMENT, "model must be given");
    dpa1_fast_results& out = same_version(results, "dpa1_fast_results");
    out.atom = out.other = -1, out.distance = 0, out.over = out.most = 0;
    model->evaluate(same_version(atoms, "dpa1_fast_atoms"), out);
  });
}

}  // extern "C"
