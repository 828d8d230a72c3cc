# One static library per folder, named kvship_<folder>, of all its .cc files (and those of its subfolders but cuda/).
# Files gpu_*missing.cc stand in for those of cuda/.
function(kvship_library folder)
  cmake_parse_arguments(ARG "" "" "PUBLIC;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cc)
  list(FILTER sources EXCLUDE REGEX
       "/(main|[a-z_]*_main|examples/[a-z_]*|cuda/[a-z_]*|transport/nccl_[a-z_]*)\\.cc$")
  if(CMAKE_CUDA_COMPILER)
    list(FILTER sources EXCLUDE REGEX "/gpu_[a-z_]*missing\\.cc$")
  endif()
  add_library(kvship_${folder} STATIC ${sources})
  target_include_directories(kvship_${folder} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(kvship_${folder} PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(kvship_${folder} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# kvship_embed(target file name): the text of a file as `extern const char name[]` of the target.
function(kvship_embed target file name)
  set(made ${CMAKE_BINARY_DIR}/generated/embedded/${file}.cc)
  set(script ${CMAKE_SOURCE_DIR}/cmake/embed_file.cmake)
  add_custom_command(
    OUTPUT ${made}
    COMMAND ${CMAKE_COMMAND} -DFROM=${CMAKE_SOURCE_DIR}/${file} -DTO=${made} -DNAME=${name} -P ${script}
    DEPENDS ${CMAKE_SOURCE_DIR}/${file} ${script} VERBATIM)
  target_sources(${target} PRIVATE ${made})
endfunction()

# Warnings of host code, and constant expressions that host and device share as functions of both.
function(kvship_cuda_options target)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra,-Werror>"
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror>")
endfunction()

# kvship_<folder>_cuda: the .cu and .cc files of <folder>/cuda, where there is a CUDA compiler. Those that end in
# _sm90.cu use what only Hopper has (sm_90a).
function(kvship_cuda_library folder)
  cmake_parse_arguments(ARG "" "" "PUBLIC;PRIVATE;WITHOUT" ${ARGN})
  if(NOT CMAKE_CUDA_COMPILER)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/cuda/*.cu ${CMAKE_SOURCE_DIR}/${folder}/cuda/*.cc)
  foreach(source ${ARG_WITHOUT})
    list(REMOVE_ITEM sources ${CMAKE_SOURCE_DIR}/${folder}/cuda/${source})
  endforeach()
  set(hopper ${sources})
  list(FILTER hopper INCLUDE REGEX "_sm90\\.cu$")
  list(FILTER sources EXCLUDE REGEX "_sm90\\.cu$")
  set(objects)
  if(hopper)
    add_library(kvship_${folder}_sm90 OBJECT ${hopper})
    set_target_properties(kvship_${folder}_sm90 PROPERTIES CUDA_ARCHITECTURES OFF)
    target_compile_options(kvship_${folder}_sm90 PRIVATE -gencode=arch=compute_90a,code=sm_90a)
    kvship_cuda_options(kvship_${folder}_sm90)
    target_link_libraries(kvship_${folder}_sm90 PUBLIC ${ARG_PUBLIC})
    set(objects $<TARGET_OBJECTS:kvship_${folder}_sm90>)
  endif()
  add_library(kvship_${folder}_cuda STATIC ${sources} ${objects})
  target_include_directories(kvship_${folder}_cuda PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(kvship_${folder}_cuda PUBLIC ${ARG_PUBLIC} CUDA::cudart_static PRIVATE ${ARG_PRIVATE})
  kvship_cuda_options(kvship_${folder}_cuda)
endfunction()

# kvship_cudnn(): the target kvship::cudnn of the headers of cuDNN and cudnn-frontend, where both are there; the libraries
# are opened when they are used. ./dev setup puts the frontend's headers into the cache folder.
function(kvship_cudnn)
  find_path(KVSHIP_CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_path(KVSHIP_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
            HINTS $ENV{XDG_CACHE_HOME}/kvship/cudnn-frontend/include $ENV{HOME}/.cache/kvship/cudnn-frontend/include)
  if(KVSHIP_CUDNN_INCLUDE_DIR AND KVSHIP_CUDNN_FRONTEND_INCLUDE_DIR)
    add_library(kvship::cudnn INTERFACE IMPORTED GLOBAL)
    set_target_properties(kvship::cudnn PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${KVSHIP_CUDNN_INCLUDE_DIR};${KVSHIP_CUDNN_FRONTEND_INCLUDE_DIR}")
  else()
    message(STATUS "Without cuDNN's attention: no cudnn.h or cudnn_frontend.h")
  endif()
endfunction()

# kvship_xgrammar(): the target kvship::xgrammar, compiled from the source that ./dev setup puts into the cache folder.
function(kvship_xgrammar)
  find_path(KVSHIP_XGRAMMAR_SOURCE_DIR cpp/grammar_matcher.cc
            HINTS $ENV{XDG_CACHE_HOME}/kvship/xgrammar $ENV{HOME}/.cache/kvship/xgrammar)
  if(NOT KVSHIP_XGRAMMAR_SOURCE_DIR)
    message(FATAL_ERROR "XGrammar's source is missing; ./dev setup fetches it")
  endif()
  file(GLOB_RECURSE sources ${KVSHIP_XGRAMMAR_SOURCE_DIR}/cpp/*.cc)
  list(FILTER sources EXCLUDE REGEX "/tvm_ffi/")  # Python's side
  add_library(kvship_xgrammar STATIC ${sources})
  set_target_properties(kvship_xgrammar PROPERTIES UNITY_BUILD ON)  # a third of the time to compile
  set(include ${KVSHIP_XGRAMMAR_SOURCE_DIR}/include ${KVSHIP_XGRAMMAR_SOURCE_DIR}/3rdparty/dlpack/include)
  target_include_directories(kvship_xgrammar SYSTEM PUBLIC ${include} PRIVATE ${KVSHIP_XGRAMMAR_SOURCE_DIR}/3rdparty/picojson)
  target_compile_definitions(kvship_xgrammar PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0
                             XGRAMMAR_ENABLE_INTERNAL_CHECK=0 XGRAMMAR_LOG_CUSTOMIZE=1)
  add_library(kvship::xgrammar ALIAS kvship_xgrammar)
endfunction()

# kvship_jinja(): the target kvship::jinja of llama.cpp's Jinja engine, compiled from the source that ./dev setup puts into the
# cache folder, and scripts/gpu_deps.sh among headers. KVSHIP_JINJA_SOURCE_DIR also has templates/, for tests.
function(kvship_jinja)
  find_path(KVSHIP_JINJA_SOURCE_DIR jinja/runtime.cpp PATH_SUFFIXES jinja
            HINTS $ENV{XDG_CACHE_HOME}/kvship $ENV{HOME}/.cache/kvship)
  if(NOT KVSHIP_JINJA_SOURCE_DIR)
    message(FATAL_ERROR "The source of llama.cpp's Jinja engine is missing; ./dev setup fetches it")
  endif()
  file(GLOB_RECURSE sources ${KVSHIP_JINJA_SOURCE_DIR}/*.cpp)
  add_library(kvship_jinja STATIC ${sources})
  target_include_directories(kvship_jinja SYSTEM PUBLIC ${KVSHIP_JINJA_SOURCE_DIR})
  target_compile_options(kvship_jinja PRIVATE -fwrapv)  # a template may count beyond 64 bits
  target_link_libraries(kvship_jinja PRIVATE nlohmann_json::nlohmann_json)
  add_library(kvship::jinja ALIAS kvship_jinja)
endfunction()

# kvship_transport_nccl: transport/nccl_*.cc, on base alone. Where NCCL's header or CUDA's runtime is missing its executor is
# built all the same, and says that there is no NCCL; KVSHIP_NCCL tells which.
function(kvship_nccl_library)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/transport/nccl_*.cc)
  if(KVSHIP_CUDA)
    find_package(CUDAToolkit QUIET)
    find_path(KVSHIP_NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  endif()
  if(TARGET CUDA::cudart_static AND KVSHIP_NCCL_INCLUDE_DIR)
    set(KVSHIP_NCCL ON PARENT_SCOPE)
    list(FILTER sources EXCLUDE REGEX nccl_cuda_missing)
    set(nccl CUDA::cudart_static)
  else()
    set(KVSHIP_NCCL OFF PARENT_SCOPE)
    list(FILTER sources EXCLUDE REGEX nccl_cuda\\.cc)
    message(STATUS "Without NCCL: no nccl.h or CUDA runtime")
  endif()
  add_library(kvship_transport_nccl STATIC ${sources})
  target_include_directories(kvship_transport_nccl PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(kvship_transport_nccl PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(kvship_transport_nccl PUBLIC kvship_base PRIVATE ${nccl})
  if(KVSHIP_NCCL_INCLUDE_DIR)
    target_include_directories(kvship_transport_nccl SYSTEM PRIVATE ${KVSHIP_NCCL_INCLUDE_DIR})
  endif()
endfunction()

# kvship_find(name header library): the target kvship::<name> of a library without a CMake package.
function(kvship_find name header library)
  find_path(KVSHIP_${name}_INCLUDE_DIR ${header} REQUIRED)
  find_library(KVSHIP_${name}_LIBRARY ${library} REQUIRED)
  add_library(kvship::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(kvship::${name} PROPERTIES
    IMPORTED_LOCATION ${KVSHIP_${name}_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${KVSHIP_${name}_INCLUDE_DIR})
endfunction()

# A program from one main file: kvship_program(kvship-prefill prefill_service/main.cc kvship_prefill_service ...)
function(kvship_program name main)
  add_executable(${name} ${CMAKE_SOURCE_DIR}/${main})
  target_compile_definitions(${name} PRIVATE KVSHIP_VERSION="${PROJECT_VERSION}")
  target_compile_options(${name} PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()

# kvship_proto: the generated messages and gRPC stubs of every .proto in the folders; kvship_messages: without the stubs.
function(kvship_protos)
  set(protos)
  foreach(folder ${ARGN})
    file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.proto)
    list(APPEND protos ${found})
  endforeach()
  set(out ${CMAKE_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${out})
  find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
  foreach(proto ${protos})
    file(RELATIVE_PATH relative ${CMAKE_SOURCE_DIR}/proto ${proto})
    string(REGEX REPLACE "\\.proto$" "" stem ${relative})
    set(messages ${out}/${stem}.pb.cc ${out}/${stem}.pb.h)
    set(stubs ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h)
    add_custom_command(
      OUTPUT ${messages} ${stubs}
      COMMAND protobuf::protoc -I ${CMAKE_SOURCE_DIR}/proto --cpp_out=${out} --grpc_out=${out}
              --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN} ${proto}
      DEPENDS ${protos} VERBATIM)
    list(APPEND all_messages ${messages})
    list(APPEND all_stubs ${stubs})
  endforeach()
  add_library(kvship_messages STATIC ${all_messages})
  target_include_directories(kvship_messages SYSTEM PUBLIC ${out})
  target_link_libraries(kvship_messages PUBLIC protobuf::libprotobuf)
  add_library(kvship_proto STATIC ${all_stubs})
  target_link_libraries(kvship_proto PUBLIC kvship_messages gRPC::grpc++)
endfunction()

# The programs.
function(kvship_programs)
  kvship_program(kvship-inspect tools/inspect_main.cc kvship_tools absl::flags absl::flags_parse)
  if(KVSHIP_BENCH)
    find_package(benchmark QUIET)
    if(benchmark_FOUND)
      add_library(kvship_bench STATIC ${CMAKE_SOURCE_DIR}/bench/kernels/machine_limits.cc)
      target_compile_options(kvship_bench PRIVATE -Wall -Wextra -Werror)
      target_link_libraries(kvship_bench PUBLIC kvship_kernels benchmark::benchmark)
      kvship_program(kvship-kernels-bench bench/kernels/kernels_bench.cc kvship_bench)
      kvship_program(kvship-attention-bench bench/kernels/attention_bench.cc kvship_bench)
    endif()
    if(CMAKE_CUDA_COMPILER)
      add_library(kvship_bench_cuda STATIC ${CMAKE_SOURCE_DIR}/bench/kernels/cuda/read_memory.cu
                  ${CMAKE_SOURCE_DIR}/bench/kernels/cuda/compression_bench.cc
                  ${CMAKE_SOURCE_DIR}/bench/kernels/cuda/experts_bench.cc
                  ${CMAKE_SOURCE_DIR}/bench/kernels/cuda/frames_bench.cc
                  ${CMAKE_SOURCE_DIR}/bench/kernels/cuda/scorer_bench.cc)
      kvship_cuda_options(kvship_bench_cuda)
      target_link_libraries(kvship_bench_cuda PUBLIC kvship_kernels_cuda)
      kvship_program(kvship-cuda-bench bench/kernels/cuda/kernels_bench.cc kvship_bench_cuda)
      add_library(kvship_bench_engine_cuda STATIC ${CMAKE_SOURCE_DIR}/bench/engine/cuda/limits.cc
                  ${CMAKE_SOURCE_DIR}/bench/engine/cuda/longest.cc)
      kvship_cuda_options(kvship_bench_engine_cuda)
      target_link_libraries(kvship_bench_engine_cuda PUBLIC kvship_bench_cuda kvship_engine_cuda kvship_compress_cuda)
      kvship_program(kvship-engine-bench bench/engine/cuda/engine_bench.cc kvship_bench_engine_cuda absl::flags
                     absl::flags_parse)
    endif()
    if(KVSHIP_NCCL)
      kvship_program(kvship-nccl-bench bench/nccl_bench.cc kvship_transport_nccl CUDA::cudart_static)
    endif()
  endif()
  if(NOT KVSHIP_SERVICES)
    return()
  endif()
  kvship_program(kvship-prefill prefill_service/main.cc kvship_prefill_service absl::flags absl::flags_parse)
  kvship_program(kvship-decode decode_service/main.cc kvship_decode_service absl::flags absl::flags_parse)
  kvship_program(kvship client/main.cc kvship_client absl::flags absl::flags_parse)
  kvship_program(kvship-stream-example client/examples/stream.cc kvship_client)
  # What a user runs, without tests and micro-benchmarks, which take as long to compile.
  add_custom_target(programs DEPENDS kvship-prefill kvship-decode kvship kvship-inspect)
endfunction()
