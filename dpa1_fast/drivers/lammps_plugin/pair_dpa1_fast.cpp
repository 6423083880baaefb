// Setting up: files, elements, what LAMMPS must do for this pair style. Steps are in compute.cpp.
#include "pair_dpa1_fast.h"

#include <algorithm>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "fmt/format.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;
using dpa1_lammps::Core;

PairDPA1Fast::PairDPA1Fast(LAMMPS* lmp) : Pair(lmp) {
  single_enable = 0, restartinfo = 0, one_coeff = 1, manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // the virial is summed over pairs, as all else
  centroidstressflag = CENTROID_AVAIL;
}

PairDPA1Fast::~PairDPA1Fast() {
  if (out_) std::fclose(out_);
  forget();
}

/// What pair_coeff said.
void PairDPA1Fast::forget() {
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
  allocated = 0;
}

void PairDPA1Fast::settings(int narg, char** arg) {
  const auto is = [&](int k, const char* word) { return std::strcmp(arg[k], word) == 0; };
  const auto keyword = [&](int k) {
    for (const char* word : {"precision", "threads", "out_freq", "out_file", "atomic", "relative", "relative_v", "fparam", "aparam"})
      if (is(k, word)) return true;
    return false;
  };
  std::vector<std::string> files;
  int k = 0;
  for (; k < narg && !keyword(k); ++k) files.emplace_back(arg[k]);
  if (files.empty())
    error->all(FLERR, "pair_style dpa1_fast: give a prepared model file; `dpa1-fast compile MODEL OUT` writes one");
  // Given a second time it is a new one: nothing of the first stays, and its atom types are told again.
  const std::string before = out_file_;
  precision_ = "float64", out_file_ = "model_devi.out", threads_ = 1, out_freq_ = 100, atomic_ = false, relative_ = relative_v_ = -1;
  frame_.clear(), atomic_parameters_.clear();
  forget();
  models_.clear();
  for (; k < narg; ++k) {
    const std::string word = arg[k];
    if (!keyword(k)) error->all(FLERR, "pair_style dpa1_fast: there is no option {}", word);
    if (word == "atomic") {
      atomic_ = true;
      continue;
    }
    if (++k == narg) error->all(FLERR, "pair_style dpa1_fast: {} needs a value", word);
    if (word == "precision") precision_ = arg[k];
    if (word == "threads") threads_ = utils::inumeric(FLERR, arg[k], false, lmp);
    if (word == "out_freq") out_freq_ = utils::inumeric(FLERR, arg[k], false, lmp);
    if (word == "out_file") out_file_ = arg[k];
    if (word == "relative" || word == "relative_v") {
      const double least = utils::numeric(FLERR, arg[k], false, lmp);
      if (!(least >= 0)) error->all(FLERR, "pair_style dpa1_fast: {} must be 0 or more, not {}", word, least);
      (word == "relative" ? relative_ : relative_v_) = least;
    }
    if (word == "fparam" || word == "aparam") {
      std::vector<double>& into = word == "fparam" ? frame_ : atomic_parameters_;
      into.push_back(utils::numeric(FLERR, arg[k], false, lmp));
      while (k + 1 < narg && !keyword(k + 1)) into.push_back(utils::numeric(FLERR, arg[++k], false, lmp));
    }
  }
  if (threads_ < 1) error->all(FLERR, "pair_style dpa1_fast: threads must be 1 or more, not {}", threads_);
  if (out_freq_ < 1) error->all(FLERR, "pair_style dpa1_fast: out_freq must be 1 or more, not {}", out_freq_);
  if (out_ && out_file_ != before) std::fclose(out_), out_ = nullptr;
  std::vector<Loaded> all;
  for (const std::string& file : files) load(file, all);
  models_ = std::move(all);
  cutoff_ = 0;
  for (const Loaded& m : models_) cutoff_ = std::max(cutoff_, m.info.cutoff);
  comm_reverse = 3 * int(models_.size());
}

/// What is wrong may be so on one rank alone: a file or an instruction that its machine lacks.
void PairDPA1Fast::load(const std::string& file, std::vector<Loaded>& into) const {
  std::string said;
  try {
    const Core& core = Core::get();
    const dpa1_fast_options options = {sizeof options, precision_.c_str(), threads_};
    dpa1_fast_model* model = nullptr;
    if (core.load(file.c_str(), &options, &model)) throw std::runtime_error(core.error());
    Loaded m{file, {model, core.free}, {}, {}, {}};
    m.info.size = sizeof m.info;
    core.describe(model, &m.info);
    const auto check = [&](const char* what, size_t given, int wanted, bool has_default) {
      if (int(given) != wanted && !(given == 0 && has_default))
        throw std::runtime_error(file + " takes " + std::to_string(wanted) + " numbers of " + what + ", and " + std::to_string(given) + " were given");
    };
    check("fparam", frame_.size(), m.info.frame_parameters, m.info.default_parameters != 0);
    check("aparam", atomic_parameters_.size(), m.info.atomic_parameters, false);
    if (comm->me == 0)
      utils::logmesg(lmp, "dpa1_fast: {} ({}, checksum {:08x}), {}, {} thread(s), {}\n", file, m.info.producer, m.info.checksum, precision_, threads_, core.build);
    into.push_back(std::move(m));
  } catch (const std::exception& e) {
    said = fmt::format("pair_style dpa1_fast: {}", e.what());
  }
  stop_together(said);
}

void PairDPA1Fast::coeff(int narg, char** arg) {
  if (models_.empty()) error->all(FLERR, "pair_coeff of dpa1_fast: the pair_style before it failed; give it again");
  const int n = atom->ntypes;
  if (!allocated) {
    memory->create(setflag, n + 1, n + 1, "pair:setflag");
    memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
    allocated = 1;
  }
  if (narg < 2 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of dpa1_fast is * * and the element of each atom type");
  for (Loaded& m : models_) map(m, narg - 2, arg + 2);
  // Alone it owns all pairs, those of types without an element too; among others those that it computes.
  const bool alone = !utils::strmatch(force->pair_style, "^hybrid");
  int set = 0;
  for (int i = 1; i <= n; ++i)
    for (int j = 1; j <= n; ++j) {
      const bool mine = models_[0].type_of[i] >= 0 && models_[0].type_of[j] >= 0;
      setflag[i][j] = j >= i && (alone || mine);
      set += mine;
    }
  if (!set) error->all(FLERR, "pair_coeff of dpa1_fast: no atom type has an element");
}

/// Which of the model's types LAMMPS's are: by name, or one after the other where no names are given.
void PairDPA1Fast::map(Loaded& m, int narg, char** arg) {
  const Core& core = Core::get();
  const int n = atom->ntypes;
  if (narg && narg != n)
    error->all(FLERR, "pair_coeff of dpa1_fast: {} elements for {} atom types; give one for each, or NULL", narg, n);
  m.type_of.assign(n + 1, -1);
  for (int i = 1; i <= n; ++i) {
    const std::string wanted = narg ? arg[i - 1] : "";
    if (wanted == "NULL") continue;
    std::string known;
    for (int32_t t = 0; t < m.info.types; ++t) {
      const std::string name = core.type_name(m.model.get(), t);
      if (narg ? name == wanted : t == i - 1) m.type_of[i] = t;
      if (core.has_type(m.model.get(), t) && known.size() < 200) known += " " + name;
    }
    if (m.type_of[i] < 0 || !core.has_type(m.model.get(), m.type_of[i]))
      error->all(FLERR, "pair_coeff of dpa1_fast: {} has no type for {} (atom type {}); it was compiled for{}", m.file, narg ? wanted : "this", i, known);
  }
}

void PairDPA1Fast::init_style() {
  if (std::strcmp(update->unit_style, "metal") == 0)
    scale_ = 1;
  else if (std::strcmp(update->unit_style, "real") == 0)
    scale_ = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
  else
    error->all(FLERR, "pair_style dpa1_fast needs units metal or real, not {}", update->unit_style);
  if (!force->newton_pair) error->all(FLERR, "pair_style dpa1_fast needs newton on: forces fall on ghost atoms");
  bool apart = false;
  for (int k = 1; k <= 3; ++k) apart = apart || (force->special_lj[k] == 0 && force->special_coul[k] == 0);
  if (apart && atom->molecular != Atom::ATOMIC && (atom->nbonds || atom->nangles || atom->ndihedrals)) {
    const char* told = "pair_style dpa1_fast: bonded atoms are left out of neighbour lists; add special_bonds lj/coul 1.0 1.0 1.0";
    if (utils::strmatch(force->pair_style, "^hybrid"))
      error->warning(FLERR, told);
    else
      error->all(FLERR, told);
  }
  if (models_.size() > 1) stop_together(comm->me == 0 ? open_file() : "");
  neighbor->add_request(this, NeighConst::REQ_FULL);
  told_over_ = false, lost_ = 0, known_atoms_ = -1;
}
