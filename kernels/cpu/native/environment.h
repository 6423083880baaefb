// The environment matrix of one atom and its gradient, in float64. Formula: reference.environment_matrix.
#pragma once

#include <algorithm>
#include <cmath>

#include "arena.h"

namespace dpa1 {

constexpr double NORM_EPS = 1e-12;  // the smallest length by which a vector is divided

/// What one atom's neighbours are, in the order of its edges; arrays of ``width`` numbers, zero beyond ``n``.
struct Environment {
  int n, width;
  double *distance, *sw, *dsw, *row[4], *unit[3], *length;
  double nearest;

  // dE/d(each of these), filled by the backward of what follows.
  double *g_row[4], *g_sw, *g_unit[3];
};

struct Smoothing {
  double rcut_smth, rcut, protection;
};

/// Products that are rounded by themselves, not within a multiply-add.
inline Vec<double> rounded(Vec<double> x) {
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
  __asm__("" : "+x"(x));
#else
  __asm__("" : "+w"(x));
#endif
#endif
  return x;
}

/// sw and dsw/du, operation by operation as in the reference and its autograd: within 3e-4 Å of rcut only a few digits of
/// them are left, and where the direction of such a neighbour counts in full, those digits must be the same ones.
inline void switched(Vec<double> u, Vec<double>& sw, Vec<double>& slope) {
  const Vec<double> u2 = rounded(u * u), u3 = rounded(u2 * u);
  const Vec<double> inner = rounded(rounded(-6.0 * u2) + rounded(15.0 * u)) - 10.0;
  sw = rounded(u3 * inner) + 1.0;
  const Vec<double> by_u2 = rounded(inner * u) + rounded(-6.0 * u3);
  slope = rounded(rounded(inner * u2) + rounded(15.0 * u3)) + rounded(2.0 * rounded(u * by_u2));
}

inline Environment environment(const double* d, int n, int width, const double* davg, const double* dstd, Smoothing s,
                               Arena& arena) {
  using V = Vec<double>;
  constexpr int W = Lanes<double>::W;
  Environment e;
  e.n = n;
  e.width = width;
  const auto field = [&] { return arena.take<double>(width); };
  const auto zeros = [&] {
    double* p = field();
    std::fill(p, p + width, 0.0);
    return p;
  };
  e.distance = field(), e.sw = field(), e.dsw = field(), e.length = field(), e.g_sw = zeros();
  for (double*& p : e.row) p = field();
  for (double*& p : e.unit) p = field();
  for (double*& p : e.g_row) p = zeros();
  for (double*& p : e.g_unit) p = zeros();
  for (int j = 0; j < n; j += W) {
    const int count = std::min(W, n - j);
    double lane[3][W], length[W];
    for (int l = 0; l < W; ++l)
      for (int c = 0; c < 3; ++c) lane[c][l] = l < count ? d[3 * (j + l) + c] : 1.0;
    for (int l = 0; l < W; ++l) {
      const double x = lane[0][l], y = lane[1][l], z = lane[2][l];
      length[l] = std::sqrt(std::fma(z, z, std::fma(y, y, x * x)));  // as torch's vector_norm rounds it
    }
    const V x = load(lane[0]), y = load(lane[1]), z = load(lane[2]), r = load(length);
    const V beyond = r < s.rcut_smth ? splat(s.rcut_smth) : r;
    const V u = ((s.rcut < beyond ? splat(s.rcut) : beyond) - s.rcut_smth) / (s.rcut - s.rcut_smth);
    const V q = r + s.protection, q2 = q * q;
    V sw, slope;
    switched(u, sw, slope);
    store(e.distance + j, r);
    store(e.sw + j, sw);
    const V inside = r < s.rcut ? slope / (s.rcut - s.rcut_smth) : V{};
    store(e.dsw + j, r > s.rcut_smth ? inside : V{});
    const V vector[4] = {1.0 / q, x / q2, y / q2, z / q2};
    V row[4];
    for (int c = 0; c < 4; ++c) {
      row[c] = (rounded(vector[c] * sw) - davg[c]) / dstd[c];
      store(e.row[c] + j, row[c]);
    }
    const V square = row[1] * row[1] + row[2] * row[2] + row[3] * row[3], root_of = root<double>(square);
    const V norm = root_of < NORM_EPS ? splat(NORM_EPS) : root_of;
    store(e.length + j, norm);
    for (int c = 0; c < 3; ++c) store(e.unit[c] + j, row[c + 1] / norm);
  }
  e.nearest = INFINITY;
  for (int j = 0; j < n; ++j) e.nearest = std::min(e.nearest, e.distance[j]);
  for (double* p : {e.distance, e.sw, e.dsw, e.length, e.row[0], e.row[1], e.row[2], e.row[3], e.unit[0], e.unit[1], e.unit[2]})
    std::fill(p + n, p + width, 0.0);
  return e;
}

/// dE/dd (n, 3). With h = g_row / dstd, r̂ = d / |d| and q = |d| + protection:
/// dE/dd = h[1:] sw/q² + r̂ [h0 (sw'/q − sw/q²) + (h[1:]·d)(sw'/q² − 2 sw/q³) + g_sw sw'],
/// where g_row has received dE/d(unit)'s part, dE/dv = (g − r̂ (r̂·g)) / |v| (without r̂ (r̂·g) where |v| is held).
inline void environment_backward(const Environment& e, const double* d, const double* dstd, Smoothing s, bool units,
                                 double* out) {
  using V = Vec<double>;
  constexpr int W = Lanes<double>::W;
  for (int j = 0; j < e.n; j += W) {
    const int count = std::min(W, e.n - j);
    double lane[3][W];
    for (int l = 0; l < W; ++l)
      for (int c = 0; c < 3; ++c) lane[c][l] = l < count ? d[3 * (j + l) + c] : 1.0;
    V h[4];
    for (int c = 0; c < 4; ++c) h[c] = load(e.g_row[c] + j);
    if (units) {
      const V length = load(e.length + j);
      V along = {};
      for (int c = 0; c < 3; ++c) along += load(e.unit[c] + j) * load(e.g_unit[c] + j);
      along = length > NORM_EPS ? along : V{};
      for (int c = 0; c < 3; ++c) h[c + 1] += (load(e.g_unit[c] + j) - load(e.unit[c] + j) * along) / length;
    }
    for (int c = 0; c < 4; ++c) h[c] /= dstd[c];
    const V x = load(lane[0]), y = load(lane[1]), z = load(lane[2]), r = load(e.distance + j);
    const V i1 = 1.0 / (r + s.protection), i2 = i1 * i1, sw = load(e.sw + j), dsw = load(e.dsw + j);
    V radial = h[0] * (dsw * i1 - sw * i2);
    radial += (h[1] * x + h[2] * y + h[3] * z) * (dsw * i2 - 2.0 * sw * i2 * i1);
    radial += load(e.g_sw + j) * dsw;
    const V along = radial / r, across = sw * i2;
    store(lane[0], h[1] * across + x * along);
    store(lane[1], h[2] * across + y * along);
    store(lane[2], h[3] * across + z * along);
    for (int l = 0; l < count; ++l)
      for (int c = 0; c < 3; ++c) out[3 * (j + l) + c] = lane[c][l];
  }
}

}  // namespace dpa1
