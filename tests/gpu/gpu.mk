# What tests the CUDA backend: here by a fake GPU, on a real one by `make check-gpu`, and on a machine
# that has nothing but the GPU by the folder that `make gpu-bundle` makes. Included by the Makefile.

# A tokenlane-cuda.so of the same, with faults on demand: the whole daemon on devices "cuda" where there is no GPU.
FAKE_PLUGIN := $(if $(SAN),,$(B)/fake_gpu/tokenlane-cuda.so)
FAKE_PLUGIN_SOURCES := tests/gpu/fake_plugin.c tests/gpu/gpu_fault.c
$(B)/fake_gpu/tokenlane-cuda.so: $(FAKE_PLUGIN_SOURCES) tests/gpu/gpu_fault.h $(call pic,$(filter-out %/cuda_bind.c %/cuda_plugin.c,$(wildcard src/device/cuda/*.c))) \
		$(FAKE_CUDA) $(B)/lib/emulated.a $(B)/lib/plugin_rooms.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) -Itests/unit -Itests/unit/device -Itests/gpu $(CFLAGS) -Wno-missing-prototypes -fPIC -MMD -MP -shared -Wl,--exclude-libs,ALL \
		-Wl,-z,defs -o $@ $(FAKE_PLUGIN_SOURCES) $(filter %.o %.a,$^) -lcmocka -lstdc++ -lm -ldl

# The kernels' tests on a GPU: machine code instead of fibers, memory that both sides share. One program, since
# the kernels are most of it; it runs the test that its first argument names.
GPU_OPS := $(filter-out %_emulator,$(patsubst tests/unit/device/%.c,%,$(wildcard tests/unit/device/test_op_*.c)))
# Where a bundle has what a bare machine lacks.
GPU_RPATH := -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib/deps'
$(B)/gpu/test_op_%.o: tests/unit/device/test_op_%.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $< for a GPU")
	$(Q)$(CCACHE) $(CC) $(CPPFLAGS) -DOP_ON_GPU -Dmain=main_test_op_$* -isystem $(CUDA_HOME)/include -Itests/unit $(PKG_CFLAGS) $(CFLAGS) \
		-Wno-missing-prototypes -MMD -MP -c $< -o $@
$(B)/gpu/ops.c: tests/gpu/gpu.mk $(wildcard tests/unit/device/test_op_*.c)
	@mkdir -p $(@D)
	@{ echo '#include <stdio.h>'; echo '#include <string.h>'; \
		for t in $(GPU_OPS); do echo "int main_$$t(void);"; done; \
		echo 'int main(int argc, char **argv) {'; echo '  const char *name = argc > 1 ? argv[1] : "";'; \
		for t in $(GPU_OPS); do echo "  if (strcmp(name, \"$$t\") == 0) return main_$$t();"; done; \
		for t in $(GPU_OPS); do echo "  puts(\"$$t\");"; done; \
		echo '  return 2;'; echo '}'; } >$@
$(B)/gpu/ops: $(B)/gpu/ops.c $(GPU_OPS:%=$(B)/gpu/%.o) $(CUDA_KERNEL_OBJECTS) $(call archives,device)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) -o $@ $(LDFLAGS) $(GPU_RPATH) $(filter %.c %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -Wl,--as-needed $(LDLIBS) \
		-lcmocka $(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt -lstdc++

$(B)/gpu/test_cuda_model $(B)/gpu/test_cuda_kv $(B)/gpu/test_cuda_drafts $(B)/gpu/test_cuda_stored $(B)/gpu/test_cuda_encoders $(B)/gpu/test_cuda_adapters: $(B)/gpu/%: tests/unit/device/%.c $(PLUGIN) $(call archives,device)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  TEST  $< for a GPU")
	$(Q)$(CC) $(CPPFLAGS) -DON_GPU -Itests/unit $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< \
		$(LDFLAGS) $(GPU_RPATH) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -Wl,--as-needed $(LDLIBS) -lcmocka -ldl

# cuDNN's attention, by the same graph that the plugin makes.
$(B)/gpu/test_cuda_sdpa: tests/unit/device/test_cuda_sdpa.c $(call pic,src/device/cuda/cuda_bind.c src/device/cuda/cuda_sdpa_plan.c) \
		$(CUDA_KERNEL_OBJECTS) $(call archives,device)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  TEST  $< for a GPU")
	$(Q)$(CC) $(CPPFLAGS) -DON_GPU -Itests/unit $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $(filter %.c %.o,$^) \
		$(LDFLAGS) $(GPU_RPATH) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -Wl,--as-needed $(LDLIBS) -lcmocka \
		$(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt -lstdc++

# The real plugin with faults on demand.
$(B)/gpu/fault_kernels.o: tests/gpu/fault_kernels.cu tests/gpu/gpu_fault.h $(CUDA_STAMP)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  NVCC  $<")
	$(Q)$(CCACHE_NVCC) $(NVCC) -std=c++17 -O3 -Iinclude $(CUDA_CODE) -Xcompiler -fPIC,-fvisibility=hidden,-Wall -c $< -o $@
$(B)/gpu/fault/tokenlane-cuda.so: tests/gpu/fault_plugin.c tests/gpu/gpu_fault.c $(B)/gpu/fault_kernels.o $(PLUGIN)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -MMD -MP -shared -Wl,--exclude-libs,ALL -Wl,-z,defs -o $@ $(filter %.c %fault_kernels.o,$^) \
		$(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt -lstdc++ -lm

$(B)/gpu/bench_gpu: bench/bench_gpu.c bench/gpu_limits.c bench/gpu_limits.h $(call archives,device)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) -isystem $(CUDA_HOME)/include $(PKG_CFLAGS) $(CFLAGS) -o $@ $(filter %.c,$^) $(LDFLAGS) $(GPU_RPATH) \
		-Wl,--start-group $(filter %.a,$^) -Wl,--end-group -Wl,--as-needed $(LDLIBS) $(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt -lstdc++

GPU_PROGRAMS := $(B)/gpu/ops $(B)/gpu/test_cuda_model $(B)/gpu/test_cuda_kv $(B)/gpu/test_cuda_drafts $(B)/gpu/test_cuda_stored $(B)/gpu/test_cuda_encoders $(B)/gpu/test_cuda_adapters $(B)/gpu/test_cuda_sdpa $(B)/gpu/fault/tokenlane-cuda.so $(B)/gpu/bench_gpu
CHECK_GPU = B=$(abspath $(B)) $(VENV)/bin/python tests/gpu/check_gpu.py

.PHONY: check-gpu gpu-tests check-gpu-ops gpu-bundle check-gpu-bundle
gpu-tests: $(if $(PLUGIN),$(GPU_PROGRAMS))
check-gpu: all $(VENV)/.done ## all of the GPU backend on the GPU that is here: kernels, golden models, end to end (no GPU: says so)
	@$(CHECK_GPU) --look && $(MAKE) --no-print-directory -j$$(nproc) gpu-tests && $(CHECK_GPU) || test $$? = 77
check-gpu-ops: gpu-tests ## each GPU kernel against its formula, on the GPU that is here
	@set -e; for t in $(GPU_OPS); do echo "  RUN   $$t"; timeout 300 $(B)/gpu/ops $$t; done

$(B)/gpu/tokenlane: $(call archives,daemon)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) $(GPU_RPATH) -o $@ -Wl,--start-group $^ -Wl,--end-group $(LDLIBS)
gpu-bundle: all gpu-tests $(B)/gpu/tokenlane $(FAKE_PLUGIN) $(VENV)/.done ## all that a run on a GPU needs, in one folder (build/plain/gpu-bundle): copy it there, then ./run-gpu-suite
	@B=$(abspath $(B)) VENV=$(abspath $(VENV)) $(VENV)/bin/python tests/gpu/make_bundle.py
check-gpu-bundle: gpu-bundle ## what of the bundle needs no GPU, in an empty root (wants to be root)
	@B=$(abspath $(B)) python3 tests/gpu/check_bundle.py --fake
