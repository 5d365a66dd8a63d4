// cadvisor-client runs the cAdvisor library as the kubelet does, with only the CRI-O plugin. For each line on standard input it prints the metrics of
// all cgroups below a parent in the Prometheus text format. It exits at the end of its input.
//
//	cadvisor-client -cgroup /kubepods
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/google/cadvisor/cache/memory"
	"github.com/google/cadvisor/container"
	_ "github.com/google/cadvisor/container/crio/install"
	info "github.com/google/cadvisor/info/v1"
	v2 "github.com/google/cadvisor/info/v2"
	"github.com/google/cadvisor/manager"
	"github.com/google/cadvisor/metrics"
	"github.com/google/cadvisor/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"k8s.io/utils/clock"
)

// The same as in pkg/kubelet/cadvisor/cadvisor_linux.go.
var included = container.MetricSet{
	container.CpuUsageMetrics:     struct{}{},
	container.MemoryUsageMetrics:  struct{}{},
	container.DiskIOMetrics:       struct{}{},
	container.NetworkUsageMetrics: struct{}{},
	container.AppMetrics:          struct{}{},
	container.ProcessMetrics:      struct{}{},
	container.OOMMetrics:          struct{}{},
	container.DiskUsageMetrics:    struct{}{},
}

// The same as in pkg/kubelet/server/server.go.
func labels(c *info.ContainerInfo) map[string]string {
	name := ""
	if len(c.Aliases) > 0 {
		name = c.Aliases[0]
	}
	return map[string]string{
		metrics.LabelID:    c.Name,
		metrics.LabelName:  name,
		metrics.LabelImage: c.Spec.Image,
		"pod":              c.Spec.Labels["io.kubernetes.pod.name"],
		"namespace":        c.Spec.Labels["io.kubernetes.pod.namespace"],
		"container":        c.Spec.Labels["io.kubernetes.container.name"],
	}
}

func main() {
	cgroup := flag.String("cgroup", "/", "parent of the cgroups to monitor")
	flag.Parse()
	interval, dynamic := time.Second, false
	housekeeping := manager.HousekeepingConfig{Interval: &interval, AllowDynamic: &dynamic}
	cadvisor, err := manager.New(memory.New(time.Minute, nil), sysfs.NewRealSysFs(), housekeeping, included, http.DefaultClient, []string{*cgroup}, nil, "", 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := cadvisor.Start(); err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	maxAge := time.Duration(0)
	options := v2.RequestOptions{IdType: v2.TypeName, Count: 1, Recursive: true, MaxAge: &maxAge}
	registry.MustRegister(metrics.NewPrometheusCollector(cadvisor, labels, included, clock.RealClock{}, options))
	fmt.Println("ready")
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		families, err := registry.Gather()
		if err != nil {
			log.Print(err)
		}
		for _, family := range families {
			if _, err := expfmt.MetricFamilyToText(os.Stdout, family); err != nil {
				log.Fatal(err)
			}
		}
		fmt.Println("# end")
	}
}
