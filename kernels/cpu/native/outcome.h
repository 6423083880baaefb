// What a call of the C interface came to, and why.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace dpa1 {

/// Why the last call of this thread failed.
inline std::string& last_error() {
  static thread_local std::string text;
  return text;
}

/// What a call came to; kernels/cpu/library.py makes of each the Python error of its kind.
enum Outcome { done = 0, out_of_memory = 1, bad_argument = 2, failed = 3 };

template <class F>
inline int guarded(F f) {
  std::string& error = last_error();
  try {
    f();
    return done;
  } catch (const std::bad_alloc&) {
    error = "the CPU engine ran out of memory";
    return out_of_memory;
  } catch (const std::logic_error& e) {  // invalid_argument, out_of_range, length_error
    error = e.what();
    return bad_argument;
  } catch (const std::exception& e) {
    error = e.what();
    return failed;
  } catch (...) {
    error = "the CPU engine failed for a reason that it does not know";
    return failed;
  }
}

}  // namespace dpa1
