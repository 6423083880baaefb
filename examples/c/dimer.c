/* Two atoms pulled apart: energy and force from C, without Python.
 *
 *     dpa1-fast compile almgcu-demo almgcu.prepared
 *     cmake -S examples/c -B build/c -Ddpa1_fast_DIR=$(dpa1-fast cmake-dir) && cmake --build build/c
 *     build/c/dimer almgcu.prepared
 */
#include <stdio.h>

#include "dpa1_fast.h"

int main(int argc, char** argv) {
  dpa1_fast_model* model;
  const dpa1_fast_options options = {sizeof options, "float64", 1};
  if (argc != 2) {
    fprintf(stderr, "usage: dimer MODEL.prepared\n");
    return 2;
  }
  if (dpa1_fast_load(argv[1], &options, &model)) {
    fprintf(stderr, "%s\n", dpa1_fast_error());
    return 1;
  }
  const int32_t type[2] = {0, 0}, n_neighbors[2] = {1, 1}, first[1] = {1}, second[1] = {0};
  const int32_t* const rows[2] = {first, second};
  printf("%s-%s\n  r (A)    E (eV)     F (eV/A)\n", dpa1_fast_type_name(model, 0), dpa1_fast_type_name(model, 0));
  for (double r = 2.0; r < 5.0; r += 0.25) {
    const double position[6] = {0, 0, 0, r, 0, 0};
    double force[6] = {0};
    const dpa1_fast_atoms atoms = {.size = sizeof atoms, .atoms = 2, .position = position, .type = type, .centers = 2,
                                   .n_neighbors = n_neighbors, .neighbors = rows};
    dpa1_fast_results results = {.size = sizeof results, .forces = force};
    if (dpa1_fast_evaluate(model, &atoms, &results)) {
      fprintf(stderr, "%s\n", dpa1_fast_error());
      return 1;
    }
    printf("%7.2f %10.6f %10.6f\n", r, results.energy, force[3]);
  }
  dpa1_fast_free(model);
  return 0;
}
