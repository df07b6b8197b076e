"""The WSGI application: gunicorn, `flask --app app_v2 …` and `python app_v2.py` start here."""

from backend.app import create_app

app = create_app()

if __name__ == "__main__":
    app.run(port=5003, threaded=True)
