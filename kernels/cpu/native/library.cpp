// The C interface, as kernels/cpu/library.py calls it. A call that fails leaves its reason in dpa1_error().
#include "candidates.h"
#include "library.h"
#include "outcome.h"

#include <new>

using namespace dpa1;

namespace {

thread_local Found found;  // by the last search of this thread
thread_local FreshEdges fresh;

struct Handle {
  Numbers numbers;
  virtual ~Handle() = default;
  virtual void build() = 0;
  virtual void series(int pair, double lo, double hi, int sets, int terms, const double* c, const double* slope) = 0;
  virtual int basis(const Numbers& in) = 0;
  virtual void forget_bases() = 0;
  virtual void evaluate(const Request& q, int threads, size_t bytes, int most) = 0;
};

template <class R>
struct Typed final : Handle {
  std::unique_ptr<Model<R>> model;
  std::vector<std::unique_ptr<Worker<R>>> workers;

  void build() override {
    model = std::make_unique<Model<R>>(numbers);
    numbers.clear();
  }

  void series(int pair, double lo, double hi, int sets, int terms, const double* c, const double* slope) override {
    model->series[pair] = std::make_unique<Series<R>>(lo, hi, sets, terms, model->m, c, slope);
    model->series_of[pair] = model->series[pair].get();
  }

  int basis(const Numbers& in) override {
    model->bases.push_back(model->make_basis(in));
    return int(model->bases.size()) - 1;
  }

  void forget_bases() override { model->bases.clear(); }

  void evaluate(const Request& q, int threads, size_t bytes, int most) override {
    while (int(workers.size()) < threads) workers.push_back(std::make_unique<Worker<R>>(*model));
    workers.resize(threads);
    dpa1::evaluate(q, plan(*model, q, bytes, most, threads), workers);
    sums(q);
  }
};

}  // namespace

extern "C" {

const char* dpa1_error() { return last_error().c_str(); }

int dpa1_lanes() { return DPA1_BYTES; }

/// Which of setup.py's builds this is, by what it was compiled for.
const char* dpa1_instructions() {
#if defined(__AVX512BF16__)
  return "avx512bf16";
#elif defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#else
  return "baseline";
#endif
}

/// Null where there is no memory for it.
void* dpa1_new(int is_double) {
  if (is_double) return static_cast<Handle*>(new (std::nothrow) Typed<double>());
  return static_cast<Handle*>(new (std::nothrow) Typed<float>());
}

void dpa1_free(void* handle) { delete static_cast<Handle*>(handle); }

int dpa1_put(void* handle, const char* name, const double* data, int64_t n) {
  return guarded([&] { static_cast<Handle*>(handle)->numbers[name] = std::vector<double>(data, data + n); });
}

int dpa1_build(void* handle) {
  return guarded([&] { static_cast<Handle*>(handle)->build(); });
}

int dpa1_series(void* handle, int pair, double lo, double hi, int sets, int terms, const double* c,
                const double* slope) {
  return guarded([&] { static_cast<Handle*>(handle)->series(pair, lo, hi, sets, terms, c, slope); });
}

/// A basis from the numbers put since the last one: its index, or minus the outcome where that is not done.
int dpa1_basis(void* handle) {
  Handle* h = static_cast<Handle*>(handle);
  int index = 0;
  const int outcome = guarded([&] {
    index = h->basis(h->numbers);
    h->numbers.clear();
  });
  return outcome ? -outcome : index;
}

/// Indices of bases start from 0 again.
void dpa1_forget_bases(void* handle) { static_cast<Handle*>(handle)->forget_bases(); }

void dpa1_pairs(int64_t atoms, const int64_t* type, const int64_t* first_edge, const int64_t* neighbor, int64_t ntypes,
                uint8_t* present) {
  pairs_present(atoms, type, first_edge, neighbor, ntypes, present);
}

int64_t dpa1_near_edges(int64_t structures, const int64_t* offset, const List* lists, const double* positions,
                        const double* cells, double cutoff, int64_t* first_edge, int64_t* center, int64_t* neighbor,
                        double* vector, double* least) {
  return near_edges(structures, offset, lists, positions, cells, cutoff, first_edge, center, neighbor, vector, *least);
}

/// Searches a structure and says how many candidates and images there are; 0 where another way must be found.
int dpa1_search(int64_t n, const uint8_t* real, const double* positions, const double* lattice, const double* dual,
                double cutoff, int64_t* sizes) {
  bool done = false;
  guarded([&] {
    done = search({n, real, positions, lattice, dual}, cutoff, found);
    sizes[0] = int64_t(found.image.size()), sizes[1] = int64_t(found.atom.size());
  });
  return done;
}

/// Searches a structure and says how many pairs there are and the smallest square of a distance; −1 where another way
/// must be found.
int64_t dpa1_fresh(int64_t n, const uint8_t* real, const double* positions, const double* lattice, const double* dual,
                   double cutoff, double* least) {
  int64_t count = -1;
  guarded([&] {
    if (fresh.search({n, real, positions, lattice, dual}, cutoff)) count = int64_t(fresh.count), *least = fresh.least;
  });
  return count;
}

/// The pairs of this thread's last search.
void dpa1_fresh_edges(int64_t* center, int64_t* neighbor, double* vector) {
  std::copy_n(fresh.center.data(), fresh.count, center);
  std::copy_n(fresh.neighbor.data(), fresh.count, neighbor);
  std::copy_n(fresh.vector.data(), 3 * fresh.count, vector);
}

/// What the last search of this thread found.
void dpa1_found(int64_t* counts, int64_t* image, int64_t* atom, double* shift) {
  std::copy(found.counts.begin(), found.counts.end(), counts);
  std::copy(found.image.begin(), found.image.end(), image);
  std::copy(found.atom.begin(), found.atom.end(), atom);
  std::copy(found.shift.begin(), found.shift.end(), shift);
}

int dpa1_evaluate(void* handle, const Request* request, int threads, int64_t bytes, int most) {
  return guarded([&] { static_cast<Handle*>(handle)->evaluate(*request, threads, size_t(bytes), most); });
}

}  // extern "C"
