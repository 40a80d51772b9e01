namespace collegium {}
