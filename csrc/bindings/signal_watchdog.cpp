// The extension module pagecli.jobs.run._signal_watchdog: a thread that ends the process some time after a signal, whatever holds
// the interpreter. It never takes the interpreter's lock: it reads what the interpreter's C handler writes to the wake-up
// descriptor, one byte a signal. pagecli/jobs/run/stop_signals.py says when it is told to wait no longer.
#include <nanobind/nanobind.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

namespace nb = nanobind;

namespace {

using Clock = std::chrono::steady_clock;
constexpr char kStandDown = 0;  // no signal's number: the program ends by itself, however long that takes

struct Watch {
    int signals, heard;   // descriptors: bytes are read from one and passed on to the other
    std::string numbers;  // signals that end the process, a byte each
    Clock::duration patience;
    std::string message;  // to standard error, when the process is ended
};

void write_all(int descriptor, const char* bytes, size_t count) {
    while (count > 0) {
        const ssize_t written = write(descriptor, bytes, count);
        if (written <= 0) return;
        bytes += written;
        count -= static_cast<size_t>(written);
    }
}

// Returns when the other end of w.signals is closed.
void watch(const Watch& w) {
    char first = 0, arrived[64];
    bool waiting = false;
    Clock::time_point deadline;
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        pollfd readable = {w.signals, POLLIN, 0};
        if (poll(&readable, 1, !waiting ? -1 : left > 0 ? static_cast<int>(left) + 1 : 0) == 0) {
            write_all(STDERR_FILENO, w.message.data(), w.message.size());
            _exit(128 + first);
        }
        const ssize_t count = read(w.signals, arrived, sizeof arrived);
        if (count <= 0) break;
        for (ssize_t i = 0; i < count; ++i) {
            if (arrived[i] == kStandDown) waiting = false;
            if (arrived[i] == kStandDown || w.numbers.find(arrived[i]) == std::string::npos) continue;
            if (first != 0) _exit(128 + arrived[i]);  // the second one: at once
            first = arrived[i];
            waiting = true;
            deadline = Clock::now() + w.patience;
        }
        write_all(w.heard, arrived, static_cast<size_t>(count));
    }
    close(w.signals);
    close(w.heard);  // last: whoever reads to its end knows that both are closed
}

// Takes both descriptors over, and closes them when the other end of `signals` is closed.
void start(int signals, int heard, nb::bytes numbers, double seconds, nb::bytes message) {
    const Watch w = {signals, heard, {numbers.c_str(), numbers.size()},
                     std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)),
                     {message.c_str(), message.size()}};
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // a signal is for the main thread, whose system calls it interrupts
    std::thread([w] { watch(w); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

NB_MODULE(_signal_watchdog, module) {
    module.def("start", start, nb::arg("signals"), nb::arg("heard"), nb::arg("numbers"), nb::arg("seconds"), nb::arg("message"));
}
