// The functions of library.cpp: for the interface of C, which stands on them, as kernels/cpu/library.py does.
#pragma once

#include "chunk.h"

extern "C" {
const char* dpa1_error();
void* dpa1_new(int is_double);
void dpa1_free(void* handle);
int dpa1_put(void* handle, const char* name, const double* data, int64_t n);
int dpa1_build(void* handle);
int dpa1_series(void* handle, int pair, double lo, double hi, int sets, int terms, const double* c,
                const double* slope);
int dpa1_basis(void* handle);
int dpa1_evaluate(void* handle, const dpa1::Request* request, int threads, int64_t bytes, int most);
}
