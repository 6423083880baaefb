// Gradients for training: moments X of each atom's neighbourhood from a flat array of parameters, and back.
//
// Two kinds of passes. P = 1: plain numbers; the backward gives dE/d(row, sw, unit) of each neighbour, from which forces
// are made. P = 2: dual numbers, whose slopes are the change along a direction v of the edge vectors; the backward gives
// the parameters' gradients of Σ c_i E_i + D_v E, which is the gradient of any loss on energies and forces
// (docs/design/training.md). What follows X, the contraction and the energy net, costs little and is torch's.
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <thread>

#include "attention_training.h"

namespace dpa1 {

/// Atoms and their neighbours, as kernels/cpu/training.py has it; index 0 of a pair is the value, 1 the slope or null.
template <class R>
struct TrainingRequest {
  int64_t atoms;
  const int64_t* first_edge;                // (atoms + 1)
  const int32_t *first_pair, *pair;         // (edges) rows of the tables
  const R* row[2];                          // (edges, 4)
  const R* sw[2];                           // (edges)
  const R* unit[2];                         // (edges, 3)
  const double* empty;                      // (atoms) logit of the empty slots
  const R *first_types, *first_returns, *factors;
  int64_t table_rows[3];                    // of each table
};

/// Consecutive atoms that are evaluated together, and what the backward needs of them.
template <class R, int P>
class Task {
 public:
  using Request = TrainingRequest<R>;

  Task(const Parameters<R>& w, const Request& q, int64_t begin, int64_t end) : w_(w), q_(q), begin_(begin), end_(end) {
    const int64_t e = q.first_edge[begin];
    near_.n = int(q.first_edge[end] - e);
    near_.first_pair = q.first_pair + e, near_.pair = q.pair + e;
    for (int p = 0; p < P; ++p) {
      near_.row.plane[p] = const_cast<R*>(q.row[p]) + 4 * e, near_.sw.plane[p] = const_cast<R*>(q.sw[p]) + e;
      near_.unit.plane[p] = const_cast<R*>(q.unit[p]) + 3 * e;
    }
    near_.row.ld = 4, near_.sw.ld = 1, near_.unit.ld = 3;
    tables_ = {q.first_types, q.first_returns, q.factors};
    for (int64_t i = begin; i < end; ++i)
      if (q.first_edge[i + 1] > q.first_edge[i])
        blocks_.push_back({int(q.first_edge[i] - e), int(q.first_edge[i + 1] - q.first_edge[i]), q.empty[i]});
  }

  /// X (atoms, 4, M), one plane a value and one its slope; zero before.
  void forward(R* const* x, Arena& keep, Arena& scratch) {
    g_ = embedding_.forward(w_, near_, tables_, keep);
    if (w_.shape.layers > 0)
      for (const Block& b : blocks_) columns_.push_back(columns_of<R, P>(near_, b, w_.shape, keep));
    for (int k = 0; k < w_.shape.layers; ++k) {
      layers_.push_back(std::make_unique<AttentionPass<R, P>>(w_, k));
      g_ = layers_.back()->forward(g_, near_.n, blocks_, columns_, keep, scratch);
    }
    const int m = w_.shape.m();
    const auto mark = scratch.mark();
    Planes<R, P> sums = take<R, P>(scratch, 4, m);
    each_atom([&](int64_t i, int at, int n) {
      product<R, P>(4, int(sums.ld), n, near_.row.from(4 * at), true, g_.from(at * g_.ld), sums, Start::zero);
      for (int p = 0; p < P; ++p)
        for (int c = 0; c < 4; ++c)
          std::copy_n(sums.plane[p] + c * sums.ld, m, x[p] + (i * 4 + c) * m);
    });
    scratch.release(mark);
  }

  /// From dE/dX. ``out``: (edges, 4), (edges), (edges, 3) where there are no ``grads``, zero before.
  void backward(const R* const* gx, Gradients<R>* grads, R* const* of_tables, R* const* out, Arena& scratch) {
    const auto mark = scratch.mark();
    const int m = w_.shape.m(), n = near_.n;
    const int64_t e = q_.first_edge[begin_];
    R *g_row = nullptr, *g_sw = nullptr, *g_unit = nullptr;
    if (!grads) g_row = out[0] + 4 * e, g_sw = out[1] + e, g_unit = out[2] + 3 * e;
    Planes<R, P> g = take<R, P>(scratch, n, m), gs = take<R, P>(scratch, 4, m, true);
    each_atom([&](int64_t i, int at, int count) {
      for (int p = 0; p < P; ++p)
        for (int c = 0; c < 4; ++c) std::copy_n(gx[p] + (i * 4 + c) * m, m, gs.plane[p] + c * gs.ld);
      product<R, P>(count, int(g.ld), 4, near_.row.from(4 * at), false, gs, g.from(at * g.ld), Start::zero);
      if (!grads) rows_backward(at, count, gs, g_row);
    });
    for (size_t k = layers_.size(); k-- > 0;)
      g = layers_[k]->backward(g, n, blocks_, columns_, grads, g_sw, g_unit, scratch);
    embedding_.backward(w_, near_, tables_, g, grads, of_tables, g_row, g_sw, scratch);
    scratch.release(mark);
  }

 private:
  const Parameters<R>& w_;
  const Request& q_;
  const int64_t begin_, end_;
  Neighbors<R, P> near_;
  Tables<R> tables_;
  std::vector<Block> blocks_;
  std::vector<Columns<R, P>> columns_;
  EmbeddingPass<R, P> embedding_;
  std::vector<std::unique_ptr<AttentionPass<R, P>>> layers_;
  Planes<R, P> g_;

  template <class F>
  void each_atom(F f) const {
    for (int64_t i = begin_; i < end_; ++i) {
      const int64_t at = q_.first_edge[i];
      if (q_.first_edge[i + 1] > at) f(i, int(at - q_.first_edge[begin_]), int(q_.first_edge[i + 1] - at));
    }
  }

  /// dE/d(row) = g · dE/dX, channel by channel.
  void rows_backward(int at, int count, Planes<R, P> gs, R* g_row) const {
    for (int j = 0; j < count; ++j)
      for (int c = 0; c < 4; ++c) {
        Vec<R> sum_ = {};
        for (int k = 0; k < gs.ld; k += Lanes<R>::W)
          sum_ += load(g_.plane[0] + (at + j) * g_.ld + k) * load(gs.plane[0] + c * gs.ld + k);
        g_row[(at + j) * 4 + c] += sum<R>(sum_);
      }
  }
};

constexpr int TASK_EDGES = 128;  // neighbours evaluated together, unless one atom has more

/// Memory of each thread, for one pass after the other: what a backward needs, and what is needed for a moment.
struct Memory {
  std::vector<Arena> keep, scratch;

  void provide(int threads) {
    if (int(keep.size()) < threads) keep.resize(threads), scratch.resize(threads);
    for (Arena& a : keep) a.release({0, 0});
  }
};

/// A pass over all atoms of a request by some threads; which thread takes what depends on the request alone.
template <class R, int P>
class Pass {
 public:
  Pass(const Parameters<R>& w, const TrainingRequest<R>& q, int threads, Memory& memory)
      : w_(w), q_(q), keep_(memory.keep), scratch_(memory.scratch), tasks_(threads) {
    memory.provide(threads);
    int64_t begin = 0;
    const int64_t edges = q.atoms ? q.first_edge[q.atoms] - q.first_edge[0] : 0;
    while (begin < q.atoms) {
      int64_t end = begin + 1;
      while (end < q.atoms && q.first_edge[end + 1] - q.first_edge[begin] <= TASK_EDGES) ++end;
      const int64_t middle = (q.first_edge[begin] + q.first_edge[end]) / 2 - q.first_edge[0];
      const int64_t t = edges ? std::min<int64_t>(threads - 1, middle * threads / edges) : 0;
      tasks_[t].push_back(std::make_unique<Task<R, P>>(w_, q_, begin, end));
      begin = end;
    }
  }

  void forward(R* const* x) {
    each([&](int t) {
      for (auto& task : tasks_[t]) task->forward(x, keep_[t], scratch_[t]);
    });
  }

  void backward(const R* const* gx, R* const* out) {
    each([&](int t) {
      for (auto& task : tasks_[t]) task->backward(gx, nullptr, nullptr, out, scratch_[t]);
    });
  }

  /// Adds the gradients to ``flat`` and to the tables' ``of_tables`` (null where there is no such table).
  void backward(const R* const* gx, R* flat, R* const* of_tables) {
    const int n = int(tasks_.size());
    const int widths[3] = {w_.shape.widths[0], w_.shape.widths[0], w_.shape.m()};
    std::vector<std::unique_ptr<Gradients<R>>> grads(n);
    std::vector<std::array<std::vector<R>, 3>> tables(n);
    each([&](int t) {
      grads[t] = std::make_unique<Gradients<R>>(w_);
      R* mine[3] = {};
      for (int k = 0; k < 3; ++k)
        if (of_tables[k]) {
          tables[t][k].assign(size_t(q_.table_rows[k]) * widths[k], R(0));
          mine[k] = tables[t][k].data();
        }
      for (auto& task : tasks_[t]) task->backward(gx, grads[t].get(), mine, nullptr, scratch_[t]);
    });
    for (int t = 0; t < n; ++t) {
      for (size_t k = 0; k < w_.all.size(); ++k) w_.all[k].give((*grads[t])[int(k)], flat);
      for (int k = 0; k < 3; ++k)
        for (size_t i = 0; i < tables[t][k].size(); ++i) of_tables[k][i] += tables[t][k][i];
    }
  }

 private:
  const Parameters<R>& w_;
  TrainingRequest<R> q_;
  std::vector<Arena>&keep_, &scratch_;
  std::vector<std::vector<std::unique_ptr<Task<R, P>>>> tasks_;

  template <class F>
  void each(F f) {
    const int n = int(tasks_.size());
    std::vector<std::exception_ptr> errors(n);
    const auto guarded = [&](int t) {
      Bfloat16Products::on() = false;
      try {
        f(t);
      } catch (...) {
        errors[t] = std::current_exception();
      }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < n; ++t) others.emplace_back(guarded, t);
    guarded(0);
    for (auto& t : others) t.join();
    for (auto& e : errors)
      if (e) std::rethrow_exception(e);
  }
};

}  // namespace dpa1
