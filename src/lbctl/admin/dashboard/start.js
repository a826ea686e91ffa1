// A browser whose machine gets or loses a network, by a container for one, breaks off what it is
// loading just then. Then once more: nobody is there yet who could say so.

import("./dashboard.js").catch(() => setTimeout(() => location.reload(), 1000));
