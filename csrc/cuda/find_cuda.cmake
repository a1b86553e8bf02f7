# Whether the CUDA kernels are built: sets PAGECLI_BUILDS_CUDA and enables the language, which must come before any target.
# -DPAGECLI_CUDA=AUTO (default): where nvcc is found; ON: or fail; OFF: never. Builds with sanitizers leave them out.
# With pip: pip install . -C cmake.define.PAGECLI_CUDA=OFF
set(PAGECLI_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (where nvcc is found), ON or OFF")
set(PAGECLI_BUILDS_CUDA OFF)
if(NOT PAGECLI_CUDA STREQUAL "OFF" AND NOT PAGECLI_SANITIZE)
  include(CheckLanguage)
  # The code is made for named GPUs (below), whatever CMake would choose by looking at this machine.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(PAGECLI_BUILDS_CUDA ON)
  elseif(NOT PAGECLI_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PAGECLI_CUDA is ${PAGECLI_CUDA}, but no CUDA compiler works here: put nvcc on the PATH, or set CUDACXX")
  endif()
  if(PAGECLI_BUILDS_CUDA AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
    set(PAGECLI_BUILDS_CUDA OFF)
    message(WARNING "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old: the CUDA kernels need 12.0 or later and are left out")
  endif()
endif()
