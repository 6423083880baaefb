// What LAMMPS's `plugin load` looks for.
#include <cstring>

#include "error.h"
#include "lammps.h"
#include "pair_dpa1_fast.h"
#if __has_include("version.h")
#include "version.h"
#endif

#ifndef LAMMPS_VERSION
#error "define LAMMPS_VERSION as the version string of LAMMPS, such as \"22 Jul 2025\""
#endif

#ifndef DPA1_FAST_RELEASE
#define DPA1_FAST_RELEASE ""
#endif

using namespace LAMMPS_NS;

/// What this LAMMPS is where it is not the one that the plugin was compiled for, else "". Members of its classes move
/// between updates of one version, so that the version alone does not say enough.
static const char* another(const LAMMPS* lmp) {
  if (std::strcmp(lmp->version, LAMMPS_VERSION) != 0) return lmp->version;
  const bool known = *DPA1_FAST_RELEASE && LAMMPS::has_git_info();
  return known && std::strcmp(LAMMPS::git_descriptor(), DPA1_FAST_RELEASE) != 0 ? LAMMPS::git_descriptor() : "";
}

// As the interface of LAMMPS's PLUGIN package has it; a LAMMPS that is installed lacks lammpsplugin.h.
extern "C" {
typedef void*(lammpsplugin_factory1)(void*);
typedef void*(lammpsplugin_factory2)(void*, int, char**);
typedef struct {
  const char *version, *style, *name, *info, *author;
  union {
    lammpsplugin_factory1* v1;
    lammpsplugin_factory2* v2;
  } creator;
  void* handle;
} lammpsplugin_t;
typedef void (*lammpsplugin_regfunc)(lammpsplugin_t*, void*);

static void* make_pair(void* lmp) { return static_cast<Pair*>(new PairDPA1Fast(static_cast<LAMMPS*>(lmp))); }

void lammpsplugin_init(void* lmp, void* handle, void* regfunc) {
  LAMMPS* l = static_cast<LAMMPS*>(lmp);
  if (const char* name = another(l); *name) {
    l->error->warning(FLERR, "pair_style dpa1_fast was built for LAMMPS {} {} and this is {}: not loaded; run `dpa1-fast lammps build` again", LAMMPS_VERSION, DPA1_FAST_RELEASE, name);
    return;
  }
  lammpsplugin_t plugin = {};
  plugin.version = LAMMPS_VERSION, plugin.style = "pair", plugin.name = "dpa1_fast";
  plugin.info = "DPA-1 by dpa1-fast", plugin.author = "the dpa1-fast authors";
  plugin.creator.v1 = &make_pair, plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
}
