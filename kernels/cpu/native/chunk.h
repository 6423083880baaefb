// A few atoms together: each alone up to its moments, then contraction and energy net with atoms as columns, and back.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>

#include "atom.h"
#include "contraction.h"

namespace dpa1 {

/// What is to be evaluated; arrays belong to the caller.
struct Request {
  int64_t count;               // centres
  const int64_t* center;       // (count) indices of atoms
  const int64_t* type;         // (atoms)
  const int64_t* first_edge;   // (atoms + 1)
  const int64_t* neighbor;     // (edges)
  const double* vector;        // (edges, 3) Å
  const int64_t* n_filled;     // (atoms) slots of sel that are filled
  const int64_t* first_type;   // (count) type of the structure's first atom
  const double* extras;        // (count, extras) what the energy net reads besides the descriptor
  const int32_t* basis;        // (count) which basis serves a centre, or -1
  double* energy;              // (atoms) out, eV
  double* gradient;            // (edges, 3) out, eV/Å
  int64_t atoms, structures;
  const int64_t* offset;       // (structures + 1) first atom of each structure
  double* force;               // (atoms, 3) out, zero before, eV/Å
  double* virial;              // (structures, 3, 3) out, zero before, eV
  double* hidden = nullptr;    // (atoms, hidden) out, the energy net's last hidden layer, where it is wanted
};

template <class R>
class Worker {
 public:
  explicit Worker(const Model<R>& model) : model_(model) {}

  /// Evaluates centres q.center[which[0 … count − 1]], all with the same basis.
  void run(const Request& q, const int64_t* which, size_t count) {
    Bfloat16Products::on() = model_.bfloat16;
    const int32_t index = q.basis[which[0]];
    if (index < 0 || !model_.attention.empty()) return group(q, {which, which + count}, nullptr);
    // Without attention all columns of the energy net's first layer are in one basis, or in none.
    std::vector<int64_t> sampled, others;
    for (size_t k = 0; k < count; ++k) (nearest(q, which[k]) >= model_.nearest ? sampled : others).push_back(which[k]);
    group(q, sampled, model_.bases[size_t(index)].get());
    group(q, others, nullptr);
  }

 private:
  static double nearest(const Request& q, int64_t which) {
    const int64_t i = q.center[which];
    double least = INFINITY;
    for (int64_t e = q.first_edge[i]; e < q.first_edge[i + 1]; ++e) {
      const double *d = q.vector + 3 * e, square = std::fma(d[2], d[2], std::fma(d[1], d[1], d[0] * d[0]));
      least = square < least ? square : least;
    }
    return std::sqrt(least);
  }

  /// Evaluates some centres; ``shared``: the basis of all of their moments.
  void group(const Request& q, const std::vector<int64_t>& which, const Basis<R>* shared) {
    if (which.empty()) return;
    const auto start = keep_.mark();
    const int count = int(which.size()), B = padded<R>(count), m = shared ? shared->r : model_.m;
    atoms_.resize(std::max(atoms_.size(), size_t(count)));
    R *x = keep_.take<R>(4 * size_t(m) * B), *one = keep_.take<R>(4 * size_t(m));
    std::fill(x, x + 4 * size_t(m) * B, R(0));
    for (int b = 0; b < count; ++b) {
      const int64_t i = q.center[which[b]], e = q.first_edge[i];
      const int n = int(q.first_edge[i + 1] - e), type = int(q.type[i]);
      types_.resize(std::max(types_.size(), size_t(n)));
      for (int j = 0; j < n; ++j) types_[j] = int(q.type[q.neighbor[e + j]]);
      const int32_t index = q.basis[which[b]];
      const Basis<R>* basis = model_.attention.empty() ? shared : index >= 0 ? model_.bases[size_t(index)].get() : nullptr;
      atoms_[b].forward(model_, type, n, q.vector + 3 * e, types_.data(), basis, one, keep_, scratch_);
      if (!model_.empty.empty()) {
        const size_t pair = size_t(q.first_type[which[b]]) * model_.ntypes + type;
        const R* empty = model_.empty.data() + pair * 4 * m;
        const R weight = R(model_.nsel - q.n_filled[i]);
        for (int k = 0; k < 4 * m; ++k) one[k] += empty[k] * weight;
      }
      for (int k = 0; k < 4 * m; ++k) x[size_t(k) * B + b] = one[k] / R(model_.nsel);
    }
    const R* dx = energies(q, which, x, m, shared, B);
    for (int b = 0; b < count; ++b) {
      for (int k = 0; k < 4 * m; ++k) one[k] = dx[size_t(k) * B + b] / R(model_.nsel);
      atoms_[b].backward(one, q.gradient + 3 * q.first_edge[q.center[which[b]]], scratch_);
    }
    keep_.release(start);
  }

  /// Energies of some centres, and dE/dX (4, m, B) from X (4, m, B), m being M or the basis's r.
  const R* energies(const Request& q, const std::vector<int64_t>& which, const R* x, int m, const Basis<R>* basis, int B) {
    constexpr int W = Lanes<R>::W;
    const int count = int(which.size()), extras = model_.extras;
    const Contraction<R> full{m, model_.axis, B};
    const SymmetricContraction<R> reduced{m, std::min(m, model_.axis), B};
    const int tebd = int(model_.tebd.size()) / model_.ntypes, width = basis ? reduced.rows() : full.rows();
    const int n_in = width + tebd + extras;
    const Layer<R>* head = basis ? &basis->head : nullptr;
    R* in = keep_.take<R>(size_t(n_in) * B);
    basis ? reduced.forward(x, in) : full.forward(x, in);
    std::fill(in + size_t(width) * B, in + size_t(n_in) * B, R(0));
    for (int b = 0; b < count; ++b) {
      const int type = int(q.type[q.center[which[b]]]);
      for (int k = 0; k < tebd; ++k) in[size_t(width + k) * B + b] = model_.tebd[size_t(type) * tebd + k];
      for (int k = 0; k < extras; ++k) in[size_t(width + tebd + k) * B + b] = R(q.extras[which[b] * extras + k]);
    }
    typename Network<R>::Saved saved;
    R* energy = keep_.take<R>(B);
    const R* y = model_.fitting.forward(in, B, saved, keep_, head);
    last(y, B, energy);
    const size_t n_hidden = model_.last_weight.size();
    if (q.hidden)
      for (int b = 0; b < count; ++b)
        for (size_t k = 0; k < n_hidden; ++k)
          q.hidden[size_t(q.center[which[b]]) * n_hidden + k] = double(y[k * B + b]);
    if (model_.vacuum) {
      // The net at zero descriptor; parameters stay.
      R *zero = keep_.take<R>(size_t(n_in) * B), *other = keep_.take<R>(B);
      std::memcpy(zero, in, size_t(n_in) * B * sizeof(R));
      std::fill(zero, zero + size_t(width + tebd) * B, R(0));
      typename Network<R>::Saved unused;
      last(model_.fitting.forward(zero, B, unused, keep_, head), B, other);
      for (int i = 0; i < B; i += W) store(energy + i, load(energy + i) - load(other + i));
    }
    const int n_last = int(model_.last_weight.size());
    R* gy = keep_.take<R>(size_t(n_last) * B);
    for (int k = 0; k < n_last; ++k) std::fill(gy + size_t(k) * B, gy + size_t(k + 1) * B, model_.last_weight[k]);
    R* gd = model_.fitting.backward(gy, B, saved, keep_, width, head);
    for (int b = 0; b < count; ++b) {
      const int64_t i = q.center[which[b]];
      const int type = int(q.type[i]);
      const bool silent = model_.silent[type] != 0;
      q.energy[i] = (silent ? 0.0 : double(energy[b]) + model_.bias[type]) + model_.out_bias[type];
      if (silent)
        for (int k = 0; k < width; ++k) gd[size_t(k) * B + b] = 0;
    }
    R* dx = keep_.take<R>(4 * size_t(m) * B);
    basis ? reduced.backward(x, gd, dx) : full.backward(x, gd, dx);
    return dx;
  }

  void last(const R* y, int B, R* energy) const {
    constexpr int W = Lanes<R>::W;
    for (int i = 0; i < B; i += W) {
      Vec<R> s = splat(model_.last_bias);
      for (size_t k = 0; k < model_.last_weight.size(); ++k) s += load(y + k * B + i) * model_.last_weight[k];
      store(energy + i, s);
    }
  }

  const Model<R>& model_;
  Arena keep_, scratch_;
  std::vector<Atom<R>> atoms_;
  std::vector<int> types_;
};

/// In which order centres are evaluated, and where chunks of them begin.
struct Plan {
  std::vector<int64_t> order, at;
};

/// As many atoms as share ``bytes`` of the cache are a chunk, in whole vectors where that is possible, and never more than a
/// thread's fair share of half of what is left: chunks shrink towards the end, where threads wait for the last. Without
/// attention the centres of one basis come together, and a chunk has one basis.
template <class R>
Plan plan(const Model<R>& model, const Request& q, size_t bytes, int most, int threads) {
  size_t per_slot = 0, per_pair = 0;
  for (const FullLayer<R>& l : model.attention) per_slot += size_t(l.rows() + l.m), per_pair += 2;
  per_slot += 2 * model.m + 64;
  constexpr int W = Lanes<R>::W;
  const auto share = [&](int64_t left) {
    return threads > 1 ? std::min<int64_t>(most, (left / (2 * threads) + W) / W * W) : most;
  };
  Plan out;
  out.order.resize(size_t(q.count));
  std::iota(out.order.begin(), out.order.end(), 0);
  const bool sorted = model.attention.empty() && !model.bases.empty();
  if (sorted)
    std::stable_sort(out.order.begin(), out.order.end(), [&](int64_t a, int64_t b) { return q.basis[a] < q.basis[b]; });
  if (!q.count) return out;
  out.at = {0};
  int64_t limit = share(q.count);
  size_t used = 0;
  for (int64_t k = 0; k < q.count; ++k) {
    const int64_t which = out.order[size_t(k)], i = q.center[which], n = q.first_edge[i + 1] - q.first_edge[i];
    const size_t need = sizeof(R) * n * (per_slot + per_pair * n);
    const int64_t held = k - out.at.back();
    const bool other = sorted && held && q.basis[which] != q.basis[out.order[size_t(k) - 1]];
    if (other || (held && (held >= limit || (used + need > bytes && held % W == 0) || used + need > 2 * bytes))) {
      out.at.push_back(k);
      limit = share(q.count - k);
      used = 0;
    }
    used += need;
  }
  out.at.push_back(q.count);
  return out;
}

/// Evaluates a request on ``workers``' threads, the caller's among them; the first exception is thrown on.
template <class R>
void evaluate(const Request& q, const Plan& plan, std::vector<std::unique_ptr<Worker<R>>>& workers) {
  if (plan.at.size() < 2) return;
  const std::vector<int64_t>& at = plan.at;
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex lock;
  const auto work = [&](Worker<R>& worker) {
    try {
      for (size_t k = next++; k + 1 < at.size(); k = next++)
        worker.run(q, plan.order.data() + at[k], size_t(at[k + 1] - at[k]));
    } catch (...) {
      const std::lock_guard<std::mutex> guard(lock);
      failure = std::current_exception();
      next = at.size();
    }
  };
  std::vector<std::thread> threads;
  const size_t useful = std::min(workers.size(), at.size() - 1);
  try {
    for (size_t k = 1; k < useful; ++k) threads.emplace_back(work, std::ref(*workers[k]));
  } catch (const std::system_error&) {
    // No more threads are to be had: those that there are do all of it.
  }
  work(*workers[0]);
  for (std::thread& t : threads) t.join();
  if (failure) std::rethrow_exception(failure);
}

/// Which pairs of types (centre, neighbour) there are: present (ntypes²), 1 or 0, zero before.
inline void pairs_present(int64_t atoms, const int64_t* type, const int64_t* first_edge, const int64_t* neighbor,
                          int64_t ntypes, uint8_t* present) {
  for (int64_t i = 0; i < atoms; ++i)
    for (int64_t e = first_edge[i]; e < first_edge[i + 1]; ++e) present[type[i] * ntypes + type[neighbor[e]]] = 1;
}

/// Forces F_i = Σ_(edges from i) g − Σ_(edges to i) g and virials W = −Σ g ⊗ d, from the gradients g of all edges.
inline void sums(const Request& q) {
  for (int64_t s = 0; s < q.structures; ++s) {
    double* w = q.virial + 9 * s;
    for (int64_t i = q.offset[s]; i < q.offset[s + 1]; ++i)
      for (int64_t e = q.first_edge[i]; e < q.first_edge[i + 1]; ++e) {
        const double *g = q.gradient + 3 * e, *d = q.vector + 3 * e;
        double *from = q.force + 3 * i, *to = q.force + 3 * q.neighbor[e];
        for (int a = 0; a < 3; ++a) {
          from[a] += g[a];
          to[a] -= g[a];
          for (int b = 0; b < 3; ++b) w[3 * a + b] -= g[a] * d[b];
        }
      }
  }
}

}  // namespace dpa1
