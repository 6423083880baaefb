# find_package(dpa1_fast REQUIRED) with dpa1_fast_DIR = what `dpa1-fast cmake-dir` prints makes the target
# dpa1_fast::dpa1_fast, a static library of the CPU engine that needs neither Python nor anything else at run time.
#
# DPA1_FAST_FLAGS says for which processor it is compiled: by default for this one. A program for several kinds of
# processors loads, at run time, one of the builds that lie beside this folder (_native_avx512… and so on).
if(TARGET dpa1_fast::dpa1_fast)
  return()
endif()
set(DPA1_FAST_FLAGS "-O3;-march=native" CACHE STRING "how to compile dpa1-fast's engine")
find_package(Threads REQUIRED)
add_library(dpa1_fast STATIC
  ${CMAKE_CURRENT_LIST_DIR}/library.cpp ${CMAKE_CURRENT_LIST_DIR}/c_api.cpp)
target_compile_features(dpa1_fast PRIVATE cxx_std_17)
target_compile_options(dpa1_fast PRIVATE ${DPA1_FAST_FLAGS} -fno-math-errno -Wno-psabi)
target_include_directories(dpa1_fast PUBLIC ${CMAKE_CURRENT_LIST_DIR}/include)
target_link_libraries(dpa1_fast PUBLIC Threads::Threads)
set_target_properties(dpa1_fast PROPERTIES POSITION_INDEPENDENT_CODE ON)
add_library(dpa1_fast::dpa1_fast ALIAS dpa1_fast)
