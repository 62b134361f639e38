// Go's net/http, as its users write it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
)

type Customer struct {
	Name       string   `json:"name"`
	City       string   `json:"city"`
	Newsletter bool     `json:"newsletter"`
	Discount   *float64 `json:"discount"`
}

type Item struct {
	ID    int      `json:"id"`
	Title string   `json:"title"`
	Price float64  `json:"price"`
	Tags  []string `json:"tags"`
	Stock int      `json:"stock"`
}

type Document struct {
	Order    int      `json:"order"`
	Customer Customer `json:"customer"`
	Items    []Item   `json:"items"`
	Note     string   `json:"note"`
	Total    float64  `json:"total"`
}

const pieces = 16

var piece = []byte(strings.Repeat("0123456789abcdef", 4096))

func main() {
	port := flag.Int("port", 0, "")
	certificate := flag.String("certificate", "", "")
	key := flag.String("key", "", "")
	file := flag.String("document", "", "")
	flag.Parse()

	text, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	var document Document
	if err := json.Unmarshal(text, &document); err != nil {
		log.Fatal(err)
	}
	large := []byte(strings.Repeat(string(piece), pieces))

	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "Hello, world!")
	})
	http.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(document)
	})
	http.HandleFunc("/items/", func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/items/"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		query := r.URL.Query()
		fmt.Fprintf(w, "%d %s %s", number, query.Get("color"), query.Get("page"))
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
	})
	http.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(large)))
		w.Write(large)
	})
	http.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		for i := 0; i < pieces; i++ {
			w.Write(piece)
			w.(http.Flusher).Flush()
		}
	})
	http.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		count, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		fmt.Fprint(w, count)
	})

	address := fmt.Sprintf("127.0.0.1:%d", *port)
	if *certificate != "" {
		log.Fatal(http.ListenAndServeTLS(address, *certificate, *key, nil))
	}
	log.Fatal(http.ListenAndServe(address, nil))
}
