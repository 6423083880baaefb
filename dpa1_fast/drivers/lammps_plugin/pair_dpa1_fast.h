// pair_style dpa1_fast FILE ... [precision P] [threads N] [out_freq N] [out_file F] ...: docs/lammps.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairDPA1Fast : public Pair {
 public:
  explicit PairDPA1Fast(LAMMPS*);
  ~PairDPA1Fast() override;
  void settings(int, char**) override;
  void coeff(int, char**) override;
  void init_style() override;
  double init_one(int, int) override { return cutoff_; }
  void compute(int, int) override;
  int pack_reverse_comm(int, int, double*) override;
  void unpack_reverse_comm(int, int*, double*) override;
  double memory_usage() override;

 private:
  struct Loaded {
    std::string file;
    std::unique_ptr<dpa1_fast_model, void (*)(dpa1_fast_model*)> model;
    dpa1_fast_info info;
    std::vector<int32_t> type_of;  // (ntypes + 1) the model's type of each of LAMMPS's, or −1
    std::vector<double> forces;    // (atoms, 3) where several models are compared
    double virial[9] = {};
  };

  void forget();
  void load(const std::string& file, std::vector<Loaded>& into) const;
  void map(Loaded& m, int narg, char** arg);
  int first_type(const Loaded& m) const;
  void evaluate(Loaded& m, double* energies, double* forces, double* atomic_virials, dpa1_fast_results& out);
  std::string trouble(const Loaded& m, int status, const dpa1_fast_results& out) const;
  void stop_together(std::string said) const;
  std::string name(int64_t i) const;
  void tally(const dpa1_fast_results& out);
  std::vector<tagint> ids_there(bigint atoms) const;
  void tell_lost();
  std::string open_file();
  void deviate();

  std::vector<Loaded> models_;
  std::string precision_ = "float64", out_file_ = "model_devi.out";
  int threads_ = 1, out_freq_ = 100;
  bool atomic_ = false, told_over_ = false;
  double relative_ = -1, relative_v_ = -1, cutoff_ = 0, scale_ = 1;  // relative to nothing where below 0
  bigint lost_ = 0, known_atoms_ = -1;  // atoms missing so far; how many there were when known_ was made
  std::vector<tagint> known_;           // on rank 0: the IDs of all atoms when none was missing, sorted
  std::FILE* out_ = nullptr;
  std::vector<double> frame_, atomic_parameters_, parameters_, energies_, forces_, virials_;
  std::vector<int32_t> types_;
};

}  // namespace LAMMPS_NS
