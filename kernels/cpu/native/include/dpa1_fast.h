/* dpa1-fast from C: DPA-1 energies, forces and virials on a CPU, without Python.
 *
 * `dpa1-fast compile MODEL OUT` writes the prepared model file that dpa1_fast_load reads. Lengths are in Å, energies in eV.
 * Every function that can fail returns a status; dpa1_fast_error() says in words what the last failure of this thread was.
 * Every structure begins with its own size, so that a caller compiled against another version of this header is told so.
 * A model is for one thread at a time; it may have worker threads of its own. Different models do not know of each other.
 */
#ifndef DPA1_FAST_H
#define DPA1_FAST_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DPA1_FAST_VERSION 1 /* of this interface */

enum dpa1_fast_status {
  DPA1_FAST_DONE = 0,
  DPA1_FAST_OUT_OF_MEMORY = 1,
  DPA1_FAST_BAD_ARGUMENT = 2, /* a structure of another version, an index or a type that does not exist */
  DPA1_FAST_FAILED = 3,
  DPA1_FAST_BAD_FILE = 4,     /* not a prepared model file, of another version, cut short or damaged */
  DPA1_FAST_UNAVAILABLE = 5,  /* a precision that this processor or this file does not have */
  DPA1_FAST_OVERLAP = 6,      /* two atoms closer than 1e-3 Å: results.atom and results.other */
  DPA1_FAST_NOT_FINITE = 7    /* a position, or an energy or force, of results.atom */
};

typedef struct dpa1_fast_model dpa1_fast_model;

typedef struct {
  uint64_t size;         /* sizeof(dpa1_fast_options) */
  const char* precision; /* "float64" (or null), "float32", "bfloat16": the arithmetic of the networks */
  int32_t threads;       /* worker threads, the caller among them; 0 means 1 */
} dpa1_fast_options;

typedef struct {
  uint64_t size;               /* sizeof(dpa1_fast_info), set by the caller; the rest is filled in */
  double cutoff;               /* Å: the neighbour list must hold every pair closer than this */
  int32_t types;               /* types are 0 … types − 1 */
  int32_t most_neighbors;      /* of more than this, the nearest count */
  int32_t frame_parameters;    /* how many numbers the system needs */
  int32_t atomic_parameters;   /* and how many every atom */
  int32_t default_parameters;  /* 1 if there are frame parameters for who gives none */
  int32_t needs_first_type;    /* 1 if energies depend on the type of the first atom (set_davg_zero = false) */
  uint32_t checksum;           /* of the file */
  const char* producer;        /* who wrote the file */
} dpa1_fast_info;

/* Atoms: local ones and ghosts (periodic images, atoms of other processes) in one row. Energies are those of the centres;
 * forces fall on all atoms, those on ghosts are the caller's to bring home. */
typedef struct {
  uint64_t size;                      /* sizeof(dpa1_fast_atoms) */
  int64_t atoms;                      /* local and ghosts */
  const double* position;             /* (atoms, 3) Å */
  const int32_t* type;                /* (atoms); −1 is nobody's neighbour and has no energy */
  int64_t centers;
  const int32_t* center;              /* (centers) indices of atoms, each at most once; null: 0 … centers − 1 */
  const int32_t* n_neighbors;         /* (atoms) entries of a row, by the index of the atom, read for centres only */
  const int32_t* const* neighbors;    /* (atoms) rows of a full list: every pair from both ends, longer ones do no harm */
  int32_t neighbor_mask;              /* entries are masked with this before they are indices; 0: they are as they are */
  int32_t first_type;                 /* the type of the system's first atom, where the model needs it */
  const double* frame_parameters;     /* (frame_parameters) or null */
  const double* atomic_parameters;    /* (atoms, atomic_parameters), read for centres only, or null */
} dpa1_fast_atoms;

typedef struct {
  uint64_t size;          /* sizeof(dpa1_fast_results) */
  double* energies;       /* (atoms) eV, or null: added to */
  double* forces;         /* (atoms, 3) eV/Å, or null: added to */
  double* atomic_virials; /* (atoms, 3, 3) eV, or null: added to; −dE_i/dr_j ⊗ (r_j − r_i), booked on the neighbour j */
  double energy;          /* eV: of all centres */
  double virial[9];       /* eV: −dE/dε, force by place; positive wants to expand */
  int64_t atom, other;    /* the atoms that a failure speaks of, or −1 */
  double distance;        /* Å between them, where they overlap */
  int64_t over;           /* centres with more than most_neighbors neighbours, */
  int64_t most;           /* and the largest number among them */
} dpa1_fast_results;

/* DPA1_FAST_VERSION of the library. */
int dpa1_fast_version(void);

/* Why the last call of this thread failed: one line, valid until its next call. */
const char* dpa1_fast_error(void);

/* Reads a prepared model file; options may be null. */
int dpa1_fast_load(const char* path, const dpa1_fast_options* options, dpa1_fast_model** model);

void dpa1_fast_free(dpa1_fast_model* model);

int dpa1_fast_describe(const dpa1_fast_model* model, dpa1_fast_info* info);

/* The name of a type (an element's symbol), valid as long as the model; null where there is no such type. */
const char* dpa1_fast_type_name(const dpa1_fast_model* model, int32_t type);

/* Whether the file was compiled for a type; atoms of others are refused. */
int dpa1_fast_has_type(const dpa1_fast_model* model, int32_t type);

/* Energies, forces and virials. Nothing is added to any array where the status is not DPA1_FAST_DONE. */
int dpa1_fast_evaluate(dpa1_fast_model* model, const dpa1_fast_atoms* atoms, dpa1_fast_results* results);

#ifdef __cplusplus
}
#endif
#endif
