// SPDX-License-Identifier: MIT
// spdlog's asynchronous logger behind three C functions, for bench_log.c: its default queue
// (8192 messages) and one thread, a file sink, a pattern with the same fields as our line.
#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <memory>

static std::shared_ptr<spdlog::details::thread_pool> pool;
static std::shared_ptr<spdlog::async_logger> logger;

extern "C" {
void bench_spdlog_start(const char *path, int overrun);
void bench_spdlog_call(const char *path, long status, unsigned long bytes, double ms, const char *id);
unsigned long bench_spdlog_stop();
}

void bench_spdlog_start(const char *path, int overrun) {
  pool = std::make_shared<spdlog::details::thread_pool>(8192, 1);
  logger = std::make_shared<spdlog::async_logger>(
      "bench", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, true), pool,
      overrun ? spdlog::async_overflow_policy::overrun_oldest : spdlog::async_overflow_policy::block);
  logger->set_pattern("ts=%Y-%m-%dT%H:%M:%S.%eZ level=%l module=%n %v", spdlog::pattern_time_type::utc);
}

void bench_spdlog_call(const char *path, long status, unsigned long bytes, double ms, const char *id) {
  logger->info("msg=request method=GET path={} status={} bytes={} ms={} request_id={}", path, status, bytes, ms, id);
}

// How many messages were overrun. Joins the writer: all others are in the file.
unsigned long bench_spdlog_stop() {
  unsigned long lost = pool->overrun_counter();
  logger.reset();
  pool.reset();
  return lost;
}
