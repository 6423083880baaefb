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

/// A product that is rounded by itself, not within a multiply-add.
inline double rounded(double x) {
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
inline void switched(double u, double& sw, double& slope) {
  const double u2 = rounded(u * u), u3 = rounded(u2 * u);
  const double inner = rounded(rounded(-6.0 * u2) + rounded(15.0 * u)) - 10.0;
  sw = rounded(u3 * inner) + 1.0;
  const double by_u2 = rounded(inner * u) + rounded(-6.0 * u3);
  slope = rounded(rounded(inner * u2) + rounded(15.0 * u3)) + rounded(2.0 * rounded(u * by_u2));
}

inline Environment environment(const double* d, int n, int width, const double* davg, const double* dstd, Smoothing s,
                               Arena& arena) {
  Environment e;
  e.n = n;
  e.width = width;
  const auto field = [&] {
    double* p = arena.take<double>(width);
    std::fill(p + n, p + width, 0.0);
    return p;
  };
  const auto zeros = [&] {
    double* p = field();
    std::fill(p, p + n, 0.0);
    return p;
  };
  e.distance = field(), e.sw = field(), e.dsw = field(), e.length = field(), e.g_sw = zeros();
  for (double*& p : e.row) p = field();
  for (double*& p : e.unit) p = field();
  for (double*& p : e.g_row) p = zeros();
  for (double*& p : e.g_unit) p = zeros();
  e.nearest = INFINITY;
  for (int j = 0; j < n; ++j) {
    const double x = d[3 * j], y = d[3 * j + 1], z = d[3 * j + 2];
    const double r = std::sqrt(std::fma(z, z, std::fma(y, y, x * x)));  // as torch's vector_norm rounds it
    const double u = (std::min(std::max(r, s.rcut_smth), s.rcut) - s.rcut_smth) / (s.rcut - s.rcut_smth);
    const double q = r + s.protection;
    double sw, slope;
    switched(u, sw, slope);
    e.distance[j] = r;
    e.nearest = std::min(e.nearest, r);
    e.sw[j] = sw;
    e.dsw[j] = r > s.rcut_smth && r < s.rcut ? slope / (s.rcut - s.rcut_smth) : 0.0;
    const double q2 = q * q;
    e.row[0][j] = (rounded(1.0 / q * sw) - davg[0]) / dstd[0];
    e.row[1][j] = (rounded(x / q2 * sw) - davg[1]) / dstd[1];
    e.row[2][j] = (rounded(y / q2 * sw) - davg[2]) / dstd[2];
    e.row[3][j] = (rounded(z / q2 * sw) - davg[3]) / dstd[3];
    const double a = e.row[1][j], b = e.row[2][j], c = e.row[3][j];
    const double length = std::max(std::sqrt(a * a + b * b + c * c), NORM_EPS);
    e.length[j] = length;
    e.unit[0][j] = a / length, e.unit[1][j] = b / length, e.unit[2][j] = c / length;
  }
  return e;
}

/// dE/dd (n, 3). With h = g_row / dstd, r̂ = d / |d| and q = |d| + protection:
/// dE/dd = h[1:] sw/q² + r̂ [h0 (sw'/q − sw/q²) + (h[1:]·d)(sw'/q² − 2 sw/q³) + g_sw sw'],
/// where g_row has received dE/d(unit)'s part, dE/dv = (g − r̂ (r̂·g)) / |v| (without r̂ (r̂·g) where |v| is held).
inline void environment_backward(const Environment& e, const double* d, const double* dstd, Smoothing s, bool units,
                                 double* out) {
  for (int j = 0; j < e.n; ++j) {
    double h[4] = {e.g_row[0][j], e.g_row[1][j], e.g_row[2][j], e.g_row[3][j]};
    if (units) {
      double along = 0.0;
      if (e.length[j] > NORM_EPS)
        for (int c = 0; c < 3; ++c) along += e.unit[c][j] * e.g_unit[c][j];
      for (int c = 0; c < 3; ++c) h[c + 1] += (e.g_unit[c][j] - e.unit[c][j] * along) / e.length[j];
    }
    for (int c = 0; c < 4; ++c) h[c] /= dstd[c];
    const double x = d[3 * j], y = d[3 * j + 1], z = d[3 * j + 2], r = e.distance[j];
    const double i1 = 1.0 / (r + s.protection), i2 = i1 * i1, sw = e.sw[j], dsw = e.dsw[j];
    double radial = h[0] * (dsw * i1 - sw * i2);
    radial += (h[1] * x + h[2] * y + h[3] * z) * (dsw * i2 - 2.0 * sw * i2 * i1);
    radial += e.g_sw[j] * dsw;
    const double along = radial / r, across = sw * i2;
    out[3 * j] = h[1] * across + x * along;
    out[3 * j + 1] = h[2] * across + y * along;
    out[3 * j + 2] = h[3] * across + z * along;
  }
}

}  // namespace dpa1
