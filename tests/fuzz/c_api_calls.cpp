// Random calls of dpa1_fast.h, mild and hostile, to be compiled with sanitizers: c_api_calls COUNT SEED FILE...
//
// Every array is exactly as long as the call says. A call must end with a status; results are finite where it is
// DPA1_FAST_DONE, and nothing is touched where it is not.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dpa1_fast.h"

namespace {

std::mt19937_64 random_bits;

int64_t below(int64_t n) { return n > 0 ? int64_t(random_bits() % uint64_t(n)) : 0; }
double uniform(double a, double b) { return a + (b - a) * double(random_bits() >> 11) * 0x1p-53; }
bool chance(double p) { return uniform(0, 1) < p; }

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s; the last error: %s\n", what, dpa1_fast_error());
  std::exit(1);
}

using Model = std::unique_ptr<dpa1_fast_model, void (*)(dpa1_fast_model*)>;

Model load(const std::string& path) {
  const char* names[] = {"float64", "float32", "bfloat16", "float16", nullptr};
  dpa1_fast_options options = {sizeof options, names[below(chance(0.9) ? 2 : 5)], int32_t(1 + below(2))};
  if (chance(0.02)) options.threads = int32_t(below(4000)) - 2000;
  if (chance(0.02)) options.size = uint64_t(below(64));
  dpa1_fast_model* model = nullptr;
  const int status = dpa1_fast_load(path.c_str(), chance(0.05) ? nullptr : &options, &model);
  if (status < 0 || status > 7 || (status == 0) != (model != nullptr)) fail("a load came to nothing that there is");
  if (status && !*dpa1_fast_error()) fail("a load failed without a word");
  return {model, dpa1_fast_free};
}

std::vector<unsigned char> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint32_t crc32(const unsigned char* p, size_t n) {
  uint32_t c = ~0u;
  for (size_t i = 0; i < n; ++i) {
    c ^= p[i];
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
  }
  return ~c;
}

/// The file with some bytes changed or lost, and mostly with a size and a checksum that are right again.
std::string spoilt(const std::string& path) {
  std::vector<unsigned char> bytes = contents(path);
  if (chance(0.2)) bytes.resize(size_t(below(int64_t(bytes.size()))));
  for (int64_t k = below(4); k > 0 && !bytes.empty(); --k) {
    // Heads of entries are few; names and counts are where it hurts, and they are near the beginning.
    const size_t at = size_t(below(int64_t(chance(0.5) ? std::min<size_t>(bytes.size(), 6000) : bytes.size())));
    bytes[at] = chance(0.5) ? (unsigned char)(below(256)) : (unsigned char)(bytes[at] ^ 1 << below(8));
  }
  if (bytes.size() >= 24 && chance(0.9)) {
    const uint64_t size = bytes.size();
    std::memcpy(&bytes[16], &size, 8);
    const uint32_t sum = crc32(&bytes[16], bytes.size() - 16);
    std::memcpy(&bytes[12], &sum, 4);
  }
  const std::string other = path + ".spoilt";
  std::ofstream(other, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  return other;
}

struct System {
  std::vector<double> position, frame, atomic;
  std::vector<int32_t> type, center, count;
  std::vector<std::vector<int32_t>> row;
  std::vector<const int32_t*> rows;
};

System make_system(const dpa1_fast_info& info) {
  System s;
  const int64_t n = below(20), centers = below(n + 1);
  const double box = uniform(2.0, 9.0);
  s.position.resize(size_t(3 * n)), s.type.resize(size_t(n)), s.count.resize(size_t(n)), s.row.resize(size_t(n));
  for (double& x : s.position) x = uniform(0, box);
  for (int32_t& t : s.type) t = int32_t(below(info.types + 1)) - 1;
  for (int64_t i = 0; i < centers; ++i) s.center.push_back(int32_t(i));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      if (chance(0.9) && (i != j || chance(0.1))) s.row[size_t(i)].push_back(int32_t(j));
    s.row[size_t(i)].shrink_to_fit();
    s.count[size_t(i)] = int32_t(s.row[size_t(i)].size());
    s.rows.push_back(s.row[size_t(i)].data());
  }
  s.frame.resize(size_t(info.frame_parameters)), s.atomic.resize(size_t(n * info.atomic_parameters));
  for (double& x : s.frame) x = uniform(-1, 1);
  for (double& x : s.atomic) x = uniform(-1, 1);
  const double odd[] = {NAN, INFINITY, -INFINITY, 1e300, -1e300, 1e-300, 0.0};
  const int32_t strange[] = {-1, -2, 127, INT32_MAX, INT32_MIN, int32_t(n), int32_t(n - 1)};
  if (n && chance(0.05)) s.position[size_t(below(3 * n))] = odd[below(7)];
  if (n > 1 && chance(0.05)) std::copy_n(&s.position[3], 3, &s.position[0]);
  if (n && chance(0.02)) s.type[size_t(below(n))] = strange[below(7)];
  if (centers && chance(0.02)) s.center[size_t(below(centers))] = strange[below(7)];
  if (n && chance(0.02)) s.count[size_t(below(n))] = strange[2 * below(1)];
  std::vector<int32_t>* row = n ? &s.row[size_t(below(n))] : nullptr;
  if (row && !row->empty() && chance(0.03)) (*row)[size_t(below(int64_t(row->size())))] = strange[below(7)];
  if (!s.frame.empty() && chance(0.02)) s.frame[0] = odd[below(7)];
  return s;
}

int evaluate(dpa1_fast_model* model, const dpa1_fast_info& info) {
  const System s = make_system(info);
  const size_t n = s.type.size();
  dpa1_fast_atoms a = {};
  a.size = chance(0.01) ? uint64_t(below(200)) : sizeof a;
  a.atoms = int64_t(n), a.position = s.position.data(), a.type = s.type.data();
  a.centers = int64_t(s.center.size()), a.center = chance(0.3) ? nullptr : s.center.data();
  a.n_neighbors = s.count.data(), a.neighbors = s.rows.data();
  a.neighbor_mask = chance(0.5) ? 0 : 0x1fffffff, a.first_type = int32_t(below(info.types + 2)) - 1;
  a.frame_parameters = chance(0.05) ? nullptr : s.frame.data(), a.atomic_parameters = chance(0.05) ? nullptr : s.atomic.data();
  if (chance(0.01)) a.centers = below(100) - 50 + int64_t(n) * (below(3) - 1);
  if (a.centers > int64_t(s.center.size())) a.center = nullptr;  // the array must be as long as it says
  if (chance(0.01)) a.position = nullptr;
  if (chance(0.01)) a.neighbors = nullptr;
  std::vector<double> energies(n), forces(3 * n), virials(9 * n);
  dpa1_fast_results r = {};
  r.size = chance(0.01) ? 0 : sizeof r;
  r.energies = chance(0.2) ? nullptr : energies.data(), r.forces = chance(0.2) ? nullptr : forces.data();
  r.atomic_virials = chance(0.5) ? nullptr : virials.data();
  const int status = dpa1_fast_evaluate(model, &a, &r);
  if (status < 0 || status > 7) fail("an evaluation came to nothing that there is");
  for (const std::vector<double>* x : {&energies, &forces, &virials})
    for (double v : *x) {
      if (status && v != 0) fail("a call that failed touched an array");
      if (!status && x != &virials && !std::isfinite(v)) fail("a result is not finite");
    }
  if (!status && !std::isfinite(r.energy)) fail("an energy is not finite");
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const long count = std::atol(argv[1]);
  random_bits.seed(uint64_t(std::atol(argv[2])));
  long seen[8] = {}, loads = 0;
  std::vector<Model> models;
  for (int k = 3; k < argc; ++k) models.emplace_back(nullptr, dpa1_fast_free);
  for (long k = 0; k < count; ++k) {
    const int64_t which = below(int64_t(models.size()));
    const std::string path = argv[3 + which];
    Model& kept = models[size_t(which)];
    const bool strange = chance(0.01);
    Model other = strange ? load(spoilt(path)) : Model(nullptr, dpa1_fast_free);
    if (!strange && (!kept || chance(0.002))) kept = load(path);
    loads += strange;
    dpa1_fast_model* model = strange ? other.get() : kept.get();
    dpa1_fast_info info = {};
    info.size = sizeof info;
    if (dpa1_fast_describe(model, &info)) {
      if (model) fail("a model cannot be described");
      continue;
    }
    for (int32_t t = -2; t < info.types + 2; ++t)
      if ((dpa1_fast_type_name(model, t) != nullptr) != (t >= 0 && t < info.types)) fail("a type has no name");
    ++seen[evaluate(model, info)];
  }
  std::printf("%ld calls, %ld strange files:", count, loads);
  for (long n : seen) std::printf(" %ld", n);
  std::printf("\n");
  return 0;
}
