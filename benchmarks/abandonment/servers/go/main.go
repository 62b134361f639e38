// The same application in Go: its handlers have the request's context, which ends when the client leaves.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// As in backend.py.
const (
	hello  = "Hello, world!"
	busy   = "the back end is busy"
	done   = "done"
	wait   = 10 * time.Second
	slices = 20
	slice  = time.Millisecond
	places = 2
	queue  = 2
)

const (
	clockMonotonic = 1
	clockThread    = 3
	dieWithParent  = 1 // PR_SET_PDEATHSIG
)

var (
	lock  sync.Mutex
	notes = struct {
		Started   int                  `json:"started"`
		Cancelled map[string]float64   `json:"cancelled"`
		Recorded  map[string]float64   `json:"recorded"`
		Slices    map[string][]float64 `json:"slices"`
	}{0, map[string]float64{}, map[string]float64{}, map[string][]float64{}}

	inside    int
	semaphore = make(chan struct{}, places)
)

func clock(which uintptr) float64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, which, uintptr(unsafe.Pointer(&now)), 0)
	return float64(now.Sec) + float64(now.Nsec)/1e9
}

// sleep says whether the client was there to its end.
func sleep(context context.Context, duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-context.Done():
		return false
	}
}

func burn() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for until := clock(clockThread) + slice.Seconds(); clock(clockThread) < until; {
	}
}

func parts(request *http.Request) (string, time.Duration) {
	path := strings.Split(request.URL.Path, "/")
	milliseconds, _ := strconv.Atoi(path[len(path)-1])
	return path[2], time.Duration(milliseconds) * time.Millisecond
}

func waiting(response http.ResponseWriter, request *http.Request) {
	name, _ := parts(request)
	lock.Lock()
	notes.Started++
	lock.Unlock()
	if !sleep(request.Context(), wait) {
		now := clock(clockMonotonic)
		lock.Lock()
		notes.Cancelled[name] = now
		lock.Unlock()
		return
	}
	fmt.Fprint(response, done)
}

func working(response http.ResponseWriter, request *http.Request) {
	name, first := parts(request)
	if first > 0 && !sleep(request.Context(), first) {
		return
	}
	for i := 0; i < slices; i++ {
		now := clock(clockMonotonic)
		lock.Lock()
		notes.Slices[name] = append(notes.Slices[name], now)
		lock.Unlock()
		burn()
		runtime.Gosched()
		if request.Context().Err() != nil {
			return
		}
	}
	fmt.Fprint(response, done)
}

func calling(response http.ResponseWriter, request *http.Request) {
	_, duration := parts(request)
	lock.Lock()
	full := inside >= places+queue
	if !full {
		inside++
	}
	lock.Unlock()
	if full {
		response.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(response, busy)
		return
	}
	defer func() {
		lock.Lock()
		inside--
		lock.Unlock()
	}()
	select {
	case semaphore <- struct{}{}:
	case <-request.Context().Done():
		return
	}
	defer func() { <-semaphore }()
	if sleep(request.Context(), duration) {
		fmt.Fprint(response, done)
	}
}

func tell(response http.ResponseWriter, _ *http.Request) {
	lock.Lock()
	defer lock.Unlock()
	json.NewEncoder(response).Encode(notes)
}

func main() {
	runtime.GOMAXPROCS(1)
	syscall.Syscall(syscall.SYS_PRCTL, dieWithParent, uintptr(syscall.SIGTERM), 0)
	http.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) { fmt.Fprint(response, hello) })
	http.HandleFunc("/wait/", waiting)
	http.HandleFunc("/work/", working)
	http.HandleFunc("/call/", calling)
	http.HandleFunc("/notes", tell)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	http.Serve(listener, nil)
}
