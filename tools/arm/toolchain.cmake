# Cross-compiles for 64-bit Arm with Debian's compiler. Python is the emulated one beside this file.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)  # so that pybind11 asks Python, which can be run
set(include ${CMAKE_CURRENT_LIST_DIR}/../../build/arm/sysroot/usr/include)
set(CMAKE_CXX_FLAGS_INIT "-idirafter ${include}")  # Python.h includes aarch64-linux-gnu/python3.x/pyconfig.h
set(Python_EXECUTABLE ${CMAKE_CURRENT_LIST_DIR}/python)
file(GLOB Python_INCLUDE_DIR ${include}/python3*)
